"""Perplexity, bits per byte, and the baselines that give them a meaning."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.evaluate.contextless import baselines, by_position, count, without_context
from firstlight.evaluate.likelihood import Likelihood

if TYPE_CHECKING:
    from firstlight.evaluate.perplexity import Stream, ids_of, measure, measure_rows, stream_of

__all__ = [
    "Likelihood",
    "Stream",
    "baselines",
    "by_position",
    "count",
    "ids_of",
    "measure",
    "measure_rows",
    "stream_of",
    "without_context",
]


def __getattr__(name: str) -> Any:
    # A run of pre-training needs the baselines only.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.perplexity"), name)
