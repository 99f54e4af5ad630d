"""A model and its tokenizer (none, for sequences that are no text) as one thing: load, save, score, generate."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.lm.lm import LM, Generated
from firstlight.lm.sampling import GenerateSettings, choose
from firstlight.lm.saving import CARD, Classifier, write

if TYPE_CHECKING:
    from firstlight.lm.directory import build, from_hub, locate, read_config, read_tokenizer
    from firstlight.lm.score import Score, WindowNats, score_windows

__all__ = [
    "CARD",
    "LM",
    "Classifier",
    "GenerateSettings",
    "Generated",
    "Score",
    "WindowNats",
    "build",
    "choose",
    "from_hub",
    "locate",
    "read_config",
    "read_tokenizer",
    "score_windows",
    "write",
]

# Loaded when first asked for: training scores nothing, and reads a model only where it starts from one.
_LATER = {
    "Score": "score", "WindowNats": "score", "score_windows": "score", "build": "directory", "from_hub": "directory",
    "locate": "directory", "read_config": "directory", "read_tokenizer": "directory",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
