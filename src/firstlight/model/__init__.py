"""The Transformer: configuration, parts, loss, key-value cache, parameter and FLOP counts, conversion to transformers.

Parts that a setting chooses by name are in the tables POSITIONS, NORMS and MLPS.
"""

from firstlight.model.cache import KVCache, StaticCache, new_cache
from firstlight.model.config import FAMILIES, Family, ModelConfig, RopeScaling
from firstlight.model.flops import ParameterCount, count_parameters, flops_per_token
from firstlight.model.gpt import GPT, Block, eval_mode, fused_splits
from firstlight.model.hf_config import HF_CLASSES, from_hf_config, hf_mismatch, to_hf_config
from firstlight.model.hf_state_dict import (
    HEADS_FILE,
    from_hf_state_dict,
    hf_parameter_names,
    is_known_buffer,
    match_tied_head,
    tensors_to_hf,
    to_hf_state_dict,
)
from firstlight.model.kernels.linear import linear
from firstlight.model.loss import Loss, linear_cross_entropy, linear_nll
from firstlight.model.mlp import MLP
from firstlight.model.norms import Norm
from firstlight.model.parts import MLPS, NORMS, POSITIONS, Part
from firstlight.model.positions import PositionScheme, RotaryPositions, scale_rope
from firstlight.model.skip_init import skip_init

__all__ = [
    "FAMILIES",
    "GPT",
    "HEADS_FILE",
    "HF_CLASSES",
    "MLP",
    "MLPS",
    "NORMS",
    "POSITIONS",
    "Block",
    "Family",
    "KVCache",
    "Loss",
    "ModelConfig",
    "Norm",
    "ParameterCount",
    "Part",
    "PositionScheme",
    "RopeScaling",
    "RotaryPositions",
    "StaticCache",
    "count_parameters",
    "eval_mode",
    "flops_per_token",
    "from_hf_config",
    "from_hf_state_dict",
    "fused_splits",
    "hf_mismatch",
    "hf_parameter_names",
    "is_known_buffer",
    "linear",
    "linear_cross_entropy",
    "linear_nll",
    "match_tied_head",
    "new_cache",
    "scale_rope",
    "skip_init",
    "tensors_to_hf",
    "to_hf_config",
    "to_hf_state_dict",
]
