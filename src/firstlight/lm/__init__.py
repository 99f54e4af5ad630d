"""A model and its tokenizer (none, for sequences that are no text) as one thing: load, save, score, generate."""

from firstlight.lm.directory import locate
from firstlight.lm.lm import LM, Generated
from firstlight.lm.sampling import GenerateSettings, choose
from firstlight.lm.saving import CARD, write
from firstlight.lm.score import Score, WindowNats, score_windows

__all__ = [
    "CARD",
    "LM",
    "GenerateSettings",
    "Generated",
    "Score",
    "WindowNats",
    "choose",
    "locate",
    "score_windows",
    "write",
]
