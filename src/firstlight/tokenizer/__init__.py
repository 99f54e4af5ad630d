"""Tokenizers: train, load, save and import them; and codecs for token ids that are not text."""

from firstlight.tokenizer.codec import Codec, IdCodec, load_codec, save_codec
from firstlight.tokenizer.from_vocab import VocabTable, build_byte_level_bpe, build_char_level, build_sentencepiece_bpe
from firstlight.tokenizer.hf_files import SIDE_FILES, TEMPLATES
from firstlight.tokenizer.importers import has_tokenizer, import_tokenizer
from firstlight.tokenizer.load import load, load_vocab, save_vocab
from firstlight.tokenizer.merges import BpeComponents
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.pixels import PixelCodec, fit_palette
from firstlight.tokenizer.settings import TokenizerSettings
from firstlight.tokenizer.slow_files import SLOW_FILES
from firstlight.tokenizer.stream import StreamDecoder
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer
from firstlight.tokenizer.training import auto_vocab_size, train

__all__ = [
    "CODECS",
    "END_OF_TEXT",
    "PATTERNS",
    "TOKENIZER_FILES",
    "UNKNOWN",
    "BpeComponents",
    "Codec",
    "IdCodec",
    "PixelCodec",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerSettings",
    "VocabTable",
    "auto_vocab_size",
    "build_byte_level_bpe",
    "build_char_level",
    "build_sentencepiece_bpe",
    "fit_palette",
    "has_tokenizer",
    "import_tokenizer",
    "load",
    "load_codec",
    "load_vocab",
    "save_codec",
    "save_vocab",
    "train",
]

# File names of codecs.
CODECS = ("pixels.json", "ids.json")
# Patterns of the files of a tokenizer in a Hugging Face folder.
TOKENIZER_FILES = ("tokenizer.json", *SLOW_FILES, *SIDE_FILES, f"{TEMPLATES}/*.jinja")
