"""The Transformer, its parts, families and heads, its loss, its cache, its FLOPs a token, its names in transformers."""

from firstlight.model.attention import scale_rope
from firstlight.model.cache import Cache, new_cache
from firstlight.model.config import Family, ModelConfig, RopeScaling
from firstlight.model.flops import ParameterCount, count_parameters, flops_per_token
from firstlight.model.gpt import GPT, Block, fused_splits
from firstlight.model.hf_config import from_hf_config
from firstlight.model.hf_state_dict import (
    HEADS_FILE,
    HF_CLASSES,
    from_hf_state_dict,
    hf_parameter_names,
    tensors_to_hf,
    to_hf_config,
    to_hf_state_dict,
)
from firstlight.model.kernels.linear import linear
from firstlight.model.loss import Loss, linear_cross_entropy, linear_nll
from firstlight.model.skip_init import skip_init

__all__ = [
    "GPT",
    "HEADS_FILE",
    "HF_CLASSES",
    "Block",
    "Cache",
    "Family",
    "Loss",
    "ModelConfig",
    "ParameterCount",
    "RopeScaling",
    "count_parameters",
    "flops_per_token",
    "from_hf_config",
    "from_hf_state_dict",
    "fused_splits",
    "hf_parameter_names",
    "linear",
    "linear_cross_entropy",
    "linear_nll",
    "new_cache",
    "scale_rope",
    "skip_init",
    "tensors_to_hf",
    "to_hf_config",
    "to_hf_state_dict",
]
