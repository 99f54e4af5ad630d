"""Tokenizers: train, load, save and import them; and codecs for token ids that are not text."""

from firstlight.tokenizer.codec import Codec, IdCodec, load_codec, save_codec
from firstlight.tokenizer.coverage import TextCoverage, VocabCoverage, text_coverage, vocab_coverage
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
from firstlight.tokenizer.tokenizer_json import byte_token, is_byte_token
from firstlight.tokenizer.training import auto_vocab_size, train
from firstlight.tokenizer.unknown import (
    NATS_PER_BYTE,
    WARN_FRACTION,
    TextBytes,
    describe_unknown,
    report_unknown,
    unknown_share,
)

__all__ = [
    "CODECS",
    "END_OF_TEXT",
    "NATS_PER_BYTE",
    "PATTERNS",
    "TOKENIZER_FILES",
    "UNKNOWN",
    "WARN_FRACTION",
    "BpeComponents",
    "Codec",
    "IdCodec",
    "PixelCodec",
    "StreamDecoder",
    "TextBytes",
    "TextCoverage",
    "Tokenizer",
    "TokenizerSettings",
    "VocabCoverage",
    "VocabTable",
    "auto_vocab_size",
    "build_byte_level_bpe",
    "build_char_level",
    "build_sentencepiece_bpe",
    "byte_token",
    "describe_unknown",
    "fit_palette",
    "has_tokenizer",
    "import_tokenizer",
    "is_byte_token",
    "load",
    "load_codec",
    "load_vocab",
    "report_unknown",
    "save_codec",
    "save_vocab",
    "text_coverage",
    "train",
    "unknown_share",
    "vocab_coverage",
]

# File names of codecs.
CODECS = ("pixels.json", "ids.json")
# Patterns of the files of a tokenizer in a Hugging Face folder.
TOKENIZER_FILES = ("tokenizer.json", *SLOW_FILES, *SIDE_FILES, f"{TEMPLATES}/*.jinja")
