"""Text to ids and back: train, load, save, import, over well-kept libraries."""

from firstlight.tokenizer.load import import_tokenizer, load
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.settings import TokenizerSettings
from firstlight.tokenizer.stream import StreamDecoder
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer
from firstlight.tokenizer.train import auto_vocabulary, train

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
