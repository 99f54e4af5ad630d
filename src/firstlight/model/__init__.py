"""The Transformer, its parts, families and heads, its loss, its cache, its FLOPs a token, its names in transformers."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.model.attention import slowed
from firstlight.model.cache import Cache, new_cache
from firstlight.model.config import Family, ModelConfig, RopeScaling
from firstlight.model.families import (
    CLASSES,
    HEADS,
    export_state,
    export_tensors,
    import_state,
    names_in_transformers,
    to_transformers,
)
from firstlight.model.flops import Parameters, flops_per_token, n_parameters
from firstlight.model.gpt import GPT, Block, splits
from firstlight.model.loss import Loss, head_loss, head_nats
from firstlight.model.products import linear
from firstlight.model.undrawn import no_drawing

if TYPE_CHECKING:
    from firstlight.model.from_config import from_transformers

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
    "head_loss",
    "head_nats",
    "import_state",
    "linear",
    "n_parameters",
    "names_in_transformers",
    "new_cache",
    "no_drawing",
    "slowed",
    "splits",
    "to_transformers",
]


def __getattr__(name: str) -> Any:
    # Loaded when a model is: a run that begins anew reads none.
    if name != "from_transformers":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.from_config").from_transformers
