"""Text that a tokenizer has no tokens for: finding it, describing it, and what it costs in bits per byte.

An unknown token says nothing about the text that it stands for, so a model that predicts it well has not encoded that
text. In bits per byte it costs its own loss and 8 bits for each of those bytes, as if they were stored next to it: with
that the bits are the length of a code from which the whole text can be restored, as for a tokenizer that knows all of
it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight import progress
from firstlight.tokenizer.tokenizer_json import TEXT_BYTES, bytes_to_token, is_byte_level
from firstlight.types import EncodedTexts, UnknownText

NATS_PER_BYTE = 8 * math.log(2)
WARN_FRACTION = 0.01  # of the tokens or of the bytes of a text
_MAX_EXAMPLES = 5
_MAX_EXAMPLE_CHARACTERS = 20
_EXAMINED = 1 << 12  # characters, for examples


@dataclass(frozen=True, slots=True)
class TextBytes:
    """The bytes and characters of text of each id of a vocabulary, in a text whose unknown part is known.

    Attributes:
        lengths: (V,) float64; 0 for special tokens. That of the unknown token is its mean in the text.
        nats: (V,) float64, what each id costs in addition to its loss.
        characters: (V,) float64, as ``lengths``; None where nobody knows how many the unknown tokens stand for.
    """

    lengths: np.ndarray
    nats: np.ndarray
    characters: np.ndarray | None

    @classmethod
    def of(
        cls,
        byte_lengths: np.ndarray,
        character_lengths: np.ndarray,
        unknown_id: int | None,
        unknown: UnknownText,
        n_tokens: int,
        *,
        one_character: bool = False,
    ) -> "TextBytes | None":
        """Compute them for a text; None where nobody knows how many bytes its unknown tokens stand for.

        Args:
            byte_lengths: of the tokenizer: (V,).
            character_lengths: of the tokenizer: (V,).
            unknown_id: of the tokenizer.
            unknown: in the text.
            n_tokens: of the text; characters that got no token are divided evenly among them.
            one_character: whether an unknown token is one character.
        """
        if unknown.n_bytes is None:
            return None
        lengths, spelled = byte_lengths.astype(np.float64), np.zeros(len(byte_lengths))
        characters: np.ndarray | None = character_lengths.astype(np.float64)
        if unknown_id is not None and unknown.tokens:
            lengths[unknown_id] = spelled[unknown_id] = unknown.n_bytes / unknown.tokens
            if one_character and characters is not None:
                characters[unknown_id] = 1
            else:
                characters = None
        if unknown.dropped_bytes:
            is_text, n = lengths > 0, max(n_tokens, 1)
            more = np.where(is_text, unknown.dropped_bytes / n, 0)
            lengths, spelled = lengths + more, spelled + more
            if characters is not None:
                characters = characters + np.where(is_text, unknown.n_dropped / n, 0)
        return cls(lengths, spelled * NATS_PER_BYTE, characters)


def find_unknown_characters(text: str, ids: np.ndarray, unknown_id: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the UTF-8 bytes of each unknown token, where every character is a token, and examples of them."""
    is_unknown = ids == unknown_id
    if not is_unknown.any():
        return np.zeros(0, np.int64), ()
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")[is_unknown]
    return utf8_lengths(points), join_examples(map(chr, points[:_EXAMINED].tolist()))


def utf8_lengths(points: np.ndarray) -> np.ndarray:
    """Return the number of UTF-8 bytes of each code point (int64)."""
    lengths = np.ones(len(points), dtype=np.int64)
    for first in (0x80, 0x800, 0x10000):
        lengths += points >= first
    return lengths


def find_unknown_spans(text: str, encoding: Any, unknown_id: int) -> list[str]:
    """Return the text of each unknown token, from the offsets that the tokenizers library records.

    A character that a normalizer splits may be several unknown tokens: it is the text of the first of them.
    """
    spans, done = [], 0
    for i, found in enumerate(encoding.ids):
        if found == unknown_id:
            start, end = encoding.token_to_chars(i) or (done, done)
            spans.append(text[max(start, done) : end])
            done = max(done, end)
    return spans


class DroppedCharacters:
    """Counts the characters of a text that BPE without an unknown token leaves out.

    Args:
        table: the tokenizer.json.
        inner: the tokenizers library's object.
    """

    def __init__(self, table: Mapping[str, Any], inner: Any) -> None:
        model = table["model"]
        self._inner, self._byte_level = inner, is_byte_level(table)
        self._missing = np.zeros(256, dtype=bool)
        if self._byte_level:
            self._missing[[b for b in TEXT_BYTES if bytes_to_token(bytes([b])) not in model["vocab"]]] = True
        prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
        known = (token.removeprefix(prefix).removesuffix(suffix) for token in model["vocab"])
        self._known = {token for token in known if len(token) == 1}

    def __call__(self, text: str) -> tuple[list[str], int]:
        """Return the characters that are left out, or some byte of them, in order; and the bytes that are left out."""
        if self._byte_level:
            n_bytes = int(self._missing[np.frombuffer(text.encode("utf-8"), dtype=np.uint8)].sum())
            return [c for c in text if self._missing[list(c.encode("utf-8"))].any()] if n_bytes else [], n_bytes
        normalized = text if self._inner.normalizer is None else self._inner.normalizer.normalize_str(text)
        splitter = self._inner.pre_tokenizer
        words = [normalized] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(normalized)]
        found = [c for word in words for c in word if c not in self._known]
        return found, len("".join(found).encode("utf-8"))


def describe_unknown(unknown: UnknownText, n_tokens: int, n_bytes: int = 0) -> str:
    """Say how much of a text is unknown, such as "5 of 200 tokens (2.5 %) are unknown: '中', '文'".

    Args:
        unknown: in the text.
        n_tokens: of the text.
        n_bytes: of the text, whose fraction is named where it is much larger than that of the tokens; 0: not known.
    """
    parts = []
    if unknown.tokens:
        counts = f"{unknown.tokens:,} of {n_tokens:,} tokens ({_percent(unknown.tokens / max(n_tokens, 1))})"
        parts.append(f"{counts} are unknown (<unk>)")
    if unknown.n_dropped:
        parts.append(f"{unknown.n_dropped:,} characters have no token and are left out")
    share = unknown_share(unknown, n_tokens, n_bytes)
    if share > 2 * unknown.fraction(n_tokens) or share > WARN_FRACTION >= unknown.fraction(n_tokens):
        parts[-1] += f", {_percent(share)} of the bytes"
    return " and ".join(parts) + _listed(unknown.examples)


def report_unknown(where: object, unknown: UnknownText, n_tokens: int, n_bytes: int = 0) -> None:
    """Say how much of a text is unknown: a warning above 1 % of its tokens or bytes, and nothing where all is known.

    Args:
        where: the text.
        unknown: in the text.
        n_tokens: of the text.
        n_bytes: of the text; 0 where that is not known.
    """
    if unknown.count:
        level = "warning" if unknown_share(unknown, n_tokens, n_bytes) > WARN_FRACTION else "info"
        progress.notice(f"{where}: {describe_unknown(unknown, n_tokens, n_bytes)}", level=level)


def unknown_share(unknown: UnknownText, n_tokens: int, n_bytes: int) -> float:
    """Return the unknown fraction of the tokens or of the bytes of a text, whichever is larger.

    One unknown token may stand for a whole sentence, so that most of a text is unknown although few tokens are.
    """
    missing = (unknown.n_bytes or 0) + unknown.dropped_bytes
    return max(unknown.fraction(n_tokens), missing / n_bytes if n_bytes else 0.0)


def join_examples(found: Iterator[str]) -> tuple[str, ...]:
    """Return the first few different texts, cut where they are long."""
    examples: dict[str, None] = {}
    for text in found:
        examples[text[:_MAX_EXAMPLE_CHARACTERS]] = None
        if len(examples) == _MAX_EXAMPLES:
            break
    return tuple(examples)


def nothing_unknown(ids: np.ndarray, counts: np.ndarray) -> EncodedTexts:
    """Return encoded texts without anything unknown in them."""
    return EncodedTexts(ids, counts, np.zeros(0, np.int64), np.zeros((len(counts), 2), np.int64))


def _listed(examples: Sequence[str]) -> str:
    shown = ", ".join(map(repr, filter(None, examples)))
    return f": {shown}{' …' if len(examples) == _MAX_EXAMPLES else ''}" if shown else ""


def _percent(fraction: float) -> str:
    return "less than 0.1 %" if 0 < fraction < 0.001 else f"{100 * fraction:.1f} %"
