"""The Transformer, its parts, families and heads, its loss, its cache, its FLOPs a token, its names in transformers."""

from firstlight.model.cache import Cache, new_cache
from firstlight.model.config import Family, ModelConfig
from firstlight.model.families import (
    CLASSES,
    HEADS,
    export_state,
    export_tensors,
    from_transformers,
    import_state,
    names_in_transformers,
    to_transformers,
)
from firstlight.model.flops import Parameters, flops_per_token, n_parameters
from firstlight.model.gpt import GPT, Block, splits
from firstlight.model.loss import Loss, head_loss, head_nats
from firstlight.model.products import linear
from firstlight.model.undrawn import no_drawing

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
    "export_state",
    "export_tensors",
    "flops_per_token",
    "from_transformers",
    "head_loss",
    "head_nats",
    "import_state",
    "linear",
    "n_parameters",
    "names_in_transformers",
    "new_cache",
    "no_drawing",
    "splits",
    "to_transformers",
]
