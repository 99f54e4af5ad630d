"""A model and its tokenizer (or codec, for sequences that are not text) as one object: load, save, score, generate."""

from firstlight.lm.card import CARD, CardInfo, TaskResult, read_card_info, without_card, write_card
from firstlight.lm.decoding import DecodingEngine
from firstlight.lm.generation_config import GENERATION, GenerationConfig
from firstlight.lm.lm import LM, Generated
from firstlight.lm.load import build_model, download_from_hub, is_hub_name, locate, read_config, read_tokenizer
from firstlight.lm.request import Request
from firstlight.lm.sampling import GenerateSettings, sample_tokens
from firstlight.lm.save import Classifier, mean_example, model_card, portable_tasks, save_pretrained, text_files
from firstlight.lm.score import Score, WindowNLL, score_windows
from firstlight.lm.weights import finite_fp32, read_state_dict

__all__ = [
    "CARD",
    "GENERATION",
    "LM",
    "CardInfo",
    "Classifier",
    "DecodingEngine",
    "GenerateSettings",
    "Generated",
    "GenerationConfig",
    "Request",
    "Score",
    "TaskResult",
    "WindowNLL",
    "build_model",
    "download_from_hub",
    "finite_fp32",
    "is_hub_name",
    "locate",
    "mean_example",
    "model_card",
    "portable_tasks",
    "read_card_info",
    "read_config",
    "read_state_dict",
    "read_tokenizer",
    "sample_tokens",
    "save_pretrained",
    "score_windows",
    "text_files",
    "without_card",
    "write_card",
]
