"""A model and its tokenizer (none, for sequences that are no text) as one thing: load, save, score, generate."""

from firstlight.lm.lm import LM, Generated
from firstlight.lm.load import build_model, download_from_hub, locate, read_config, read_tokenizer
from firstlight.lm.sampling import GenerateSettings, sample_tokens
from firstlight.lm.save import CARD, Classifier, save_pretrained, text_files
from firstlight.lm.score import Score, WindowNLL, score_windows

__all__ = [
    "LM",
    "Generated",
    "build_model",
    "download_from_hub",
    "locate",
    "read_config",
    "read_tokenizer",
    "GenerateSettings",
    "sample_tokens",
    "CARD",
    "Classifier",
    "save_pretrained",
    "text_files",
    "Score",
    "WindowNLL",
    "score_windows",
]
