"""Text to ids and back: train, load, save, import, over well-kept libraries; and what ids mean that are no text."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.tokenizer.load import load
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.settings import TokenizerSettings
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer

if TYPE_CHECKING:
    from firstlight.tokenizer.codec import Codec, Ids, read_codec, save_codec
    from firstlight.tokenizer.importing import import_tokenizer
    from firstlight.tokenizer.merges import BpeFacts
    from firstlight.tokenizer.pieces import Table, byte_level, characters, sentence_piece
    from firstlight.tokenizer.pixels import Pixels, find_palette
    from firstlight.tokenizer.stream import StreamDecoder
    from firstlight.tokenizer.training import auto_vocabulary, train

__all__ = [
    "CODECS",
    "END_OF_TEXT",
    "PATTERNS",
    "UNKNOWN",
    "BpeFacts",
    "Codec",
    "Ids",
    "Pixels",
    "StreamDecoder",
    "Table",
    "Tokenizer",
    "TokenizerSettings",
    "auto_vocabulary",
    "byte_level",
    "characters",
    "find_palette",
    "import_tokenizer",
    "load",
    "read_codec",
    "save_codec",
    "sentence_piece",
    "train",
]

# Files that say what ids mean where there is no tokenizer.
CODECS = ("pixels.json", "ids.json")

# Loaded when first asked for: most runs have a tokenizer.
_LAZY = {
    "Codec": "codec", "Ids": "codec", "Pixels": "pixels", "find_palette": "pixels",
    "read_codec": "codec", "save_codec": "codec",
    "auto_vocabulary": "training", "train": "training", "import_tokenizer": "importing", "BpeFacts": "merges",
    "Table": "pieces", "byte_level": "pieces", "characters": "pieces", "sentence_piece": "pieces",
    "StreamDecoder": "stream",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
