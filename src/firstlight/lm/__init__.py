"""A model and its tokenizer (none, for sequences that are no text) as one thing: load, save, score, generate."""

from firstlight.lm.lm import LM, Generated
from firstlight.lm.load import build, from_hub, locate, read_config, read_tokenizer
from firstlight.lm.sampling import GenerateSettings, sample_tokens
from firstlight.lm.save import CARD, Classifier, write
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
    "from_hub",
    "locate",
    "read_config",
    "read_tokenizer",
    "sample_tokens",
    "score_windows",
    "write",
]
