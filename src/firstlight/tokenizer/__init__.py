"""Text to ids and back: train, load, save, import, over well-kept libraries."""

from typing import TYPE_CHECKING, Any

from firstlight.tokenizer.load import import_tokenizer, load
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.settings import TokenizerSettings
from firstlight.tokenizer.stream import StreamDecoder
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer

if TYPE_CHECKING:
    from firstlight.tokenizer.training import auto_vocabulary, train

__all__ = [
    "END_OF_TEXT",
    "PATTERNS",
    "UNKNOWN",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerSettings",
    "auto_vocabulary",
    "import_tokenizer",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    # Training is loaded when first asked for: most runs have a tokenizer.
    if name not in ("auto_vocabulary", "train"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from firstlight.tokenizer import training

    return getattr(training, name)
