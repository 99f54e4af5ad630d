"""The Transformer, its parts, families and heads, its loss, its cache, its FLOPs a token, its names in transformers."""

from firstlight.model.attention import scale_rope
from firstlight.model.cache import Cache, new_cache
from firstlight.model.config import Family, ModelConfig, RopeScaling
from firstlight.model.flops import Parameters, flops_per_token, n_parameters
from firstlight.model.gpt import GPT, Block, fused_splits
from firstlight.model.hf_config import from_transformers
from firstlight.model.hf_state_dict import (
    CLASSES,
    HEADS,
    export_state,
    export_tensors,
    import_state,
    names_in_transformers,
    to_transformers,
)
from firstlight.model.kernels.linear import linear
from firstlight.model.loss import Loss, head_loss, head_nats
from firstlight.model.skip_init import skip_init

__all__ = [
    "CLASSES",
    "GPT",
    "HEADS",
    "Block",
    "Cache",
    "Family",
    "Loss",
    "ModelConfig",
    "Parameters",
    "RopeScaling",
    "export_state",
    "export_tensors",
    "flops_per_token",
    "from_transformers",
    "fused_splits",
    "head_loss",
    "head_nats",
    "import_state",
    "linear",
    "n_parameters",
    "names_in_transformers",
    "new_cache",
    "scale_rope",
    "skip_init",
    "to_transformers",
]
