"""A model and its tokenizer (none, for sequences that are no text) as one thing: load, save, score, generate."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.lm.directory import build, from_hub, locate, read_config, read_tokenizer
from firstlight.lm.lm import LM, Generated
from firstlight.lm.sampling import GenerateSettings, choose
from firstlight.lm.saving import CARD, Classifier, write

if TYPE_CHECKING:
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

_SCORING = ("Score", "WindowNats", "score_windows")  # loaded when first asked for: training scores nothing


def __getattr__(name: str) -> Any:
    if name not in _SCORING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.score"), name)
