"""Text to ids and back: train, load, save, import, over well-kept libraries; and what ids mean that are no text."""

from firstlight.tokenizer.codec import Codec, Ids, read_codec, save_codec
from firstlight.tokenizer.from_vocab import Table, byte_level, characters, sentence_piece
from firstlight.tokenizer.import_tokenizer_files import import_tokenizer
from firstlight.tokenizer.load import load, load_vocab, save_vocab
from firstlight.tokenizer.merges import BpeFacts
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.pixels import Pixels, find_palette
from firstlight.tokenizer.settings import TokenizerSettings
from firstlight.tokenizer.stream import StreamDecoder
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer
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
    "load_vocab",
    "read_codec",
    "save_codec",
    "save_vocab",
    "sentence_piece",
    "train",
]

# Files that say what ids mean where there is no tokenizer.
CODECS = ("pixels.json", "ids.json")
