"""How a tokenizer covers characters: which tokens are whole ones, and how those of a text are divided into tokens."""

from dataclasses import dataclass

import numpy as np

from firstlight.tokenizer.tokenizer import Tokenizer
from firstlight.tokenizer.tokenizer_json import count_characters, special_ids

_LENGTHS = ((0xF0, 4), (0xE0, 3), (0xC0, 2), (0x00, 1))  # of a character, by the least value of its first byte


@dataclass(frozen=True, slots=True)
class VocabCoverage:
    """The tokens of a vocabulary by the characters of text in them.

    Attributes:
        single: tokens of one character.
        single_non_ascii: those of them that are not ASCII.
        several: tokens of several characters, as syllables and words.
        partial: tokens with a part of a character, such as one byte of it.
        special: tokens that are no text.
    """

    single: int
    single_non_ascii: int
    several: int
    partial: int
    special: int


@dataclass(frozen=True, slots=True)
class TextCoverage:
    """The characters of a text that a tokenizer has tokens for.

    Attributes:
        name: of the text.
        whole: characters within one token, alone or with others.
        split: characters that take several tokens.
        non_ascii_whole, non_ascii_split: those of them that are not ASCII.
        unk_tokens: unknown tokens, and characters that get no token.
    """

    name: str
    whole: int
    split: int
    non_ascii_whole: int
    non_ascii_split: int
    unk_tokens: int


def vocab_coverage(tokenizer: Tokenizer) -> VocabCoverage:
    """Count the tokens of a vocabulary by the characters of text in them."""
    special = special_ids(tokenizer.definition)
    counts = dict.fromkeys(("single", "single_non_ascii", "several", "partial"), 0)
    n_special = 0
    for i, data in enumerate(tokenizer.token_bytes()):
        whole, begun, _ = _characters(data)
        if i in special or not data:
            n_special += 1
        elif begun or count_characters(data) != whole or data[0] & 0xC0 == 0x80:
            counts["partial"] += 1
        else:
            counts["single" if whole == 1 else "several"] += 1
            counts["single_non_ascii"] += whole == 1 and data[0] >= 0x80
    return VocabCoverage(**counts, special=n_special)


def text_coverage(tokenizer: Tokenizer, name: str, counts: np.ndarray, unk_tokens: int) -> TextCoverage:
    """Count the characters of a text by the tokens they are in.

    Args:
        tokenizer: that encoded it.
        name: of the text.
        counts: how often each id occurs in it (up to V,).
        unk_tokens: of its tokens and characters, those that are unknown.
    """
    table = np.array([_both(data) for data in tokenizer.token_bytes()], dtype=np.int64)  # (V, 4)
    if tokenizer.unknown_id is not None:
        table[tokenizer.unknown_id] = 0
    whole, split, non_ascii_whole, non_ascii_split = map(int, counts @ table[: len(counts)])
    return TextCoverage(name, whole, split, non_ascii_whole, non_ascii_split, unk_tokens)


def _both(data: bytes) -> tuple[int, int, int, int]:
    whole, begun, ascii_ = _characters(data)
    return whole, begun, whole - ascii_, begun


def _characters(data: bytes) -> tuple[int, int, int]:
    """Return the characters that some bytes hold whole, those that only begin in them, and the ASCII ones."""
    whole = begun = 0
    for i, first in enumerate(data):
        if first & 0xC0 == 0x80:
            continue
        length = next(n for least, n in _LENGTHS if first >= least)
        if i + length <= len(data):
            whole += 1
        else:
            begun += 1
    return whole, begun, sum(b < 0x80 for b in data)
