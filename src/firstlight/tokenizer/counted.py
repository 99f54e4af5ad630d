"""Encode texts and count what is unknown in them: unknown tokens, the bytes they stand for, characters left out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from firstlight.tokenizer import tokenizer_json
from firstlight.tokenizer.fast_encoder import EncodedBatch, chunks
from firstlight.tokenizer.unknown import (
    DroppedCharacters,
    find_unknown_characters,
    find_unknown_spans,
    join_examples,
    nothing_unknown,
)
from firstlight.tokenizer.untrusted import library_errors
from firstlight.types import EncodedTexts

# The tokenizers library needs some hundred bytes per token, so it is given at most this much text at a time.
CHUNK_CHARACTERS = 1 << 19


class CountingEncoder:
    """Encodes texts as a tokenizer does, and counts what is unknown in them.

    Args:
        table: the tokenizer.json.
        inner: the tokenizers library's object.
        encode: the tokenizer's own encoding, which need not record where each token is from.
        eot_id: of end-of-text; where it stands for unknown text, such text counts as text without tokens.

    Attributes:
        unknown_id: the id that text outside the vocabulary gets; None where all text has tokens, or such text gets no
            id of its own.
        has_unknown: whether there may be text that has no tokens.
    """

    def __init__(
        self, table: Mapping[str, Any], inner: Any, encode: Callable[[list[str]], EncodedBatch], eot_id: int
    ) -> None:
        self._table, self._inner, self._encode = table, inner, encode
        self._model_unknown_id = tokenizer_json.unknown_id(table)
        self.unknown_id = None if self._model_unknown_id == eot_id else self._model_unknown_id
        self.has_unknown = self._model_unknown_id is not None or tokenizer_json.drops_unknown(table)
        self._is_char_level = tokenizer_json.detect_kind(dict(table)) == "char"

    def __call__(self, texts: list[str]) -> EncodedTexts:
        """Encode texts.

        Raises:
            UnicodeEncodeError, TypeError: a text has a lone surrogate.
        """
        if not self.has_unknown:
            return nothing_unknown(*self._encode(texts))
        unknown_id = self._model_unknown_id
        if unknown_id is None:
            return self._encode_dropping(texts)
        if self._is_char_level:
            ids, counts = self._encode(texts)
            lengths, examples = find_unknown_characters("".join(texts), ids, unknown_id)
            found = EncodedTexts(ids, counts, lengths, np.zeros((len(texts), 2), np.int64), examples)
        else:
            found = self._encode_with_offsets(texts, unknown_id)
        return found if self.unknown_id is not None else _as_dropped(found, unknown_id)

    def _encode_dropping(self, texts: list[str]) -> EncodedTexts:
        """Encode texts with BPE that leaves out characters without a token."""
        ids, counts = self._encode(texts)
        missing = [self._dropped(text) for text in texts]
        dropped = np.array([[len(found), n_bytes] for found, n_bytes in missing], dtype=np.int64).reshape(-1, 2)
        return EncodedTexts(
            ids, counts, np.zeros(0, np.int64), dropped, join_examples(c for found, _ in missing for c in found)
        )

    def _encode_with_offsets(self, texts: list[str], unknown_id: int) -> EncodedTexts:
        """Encode texts with the tokenizers library, which records where each token is from."""
        parts: list[np.ndarray] = []
        spans: list[str] = []
        lengths: list[int] = []
        for chunk in chunks(texts, CHUNK_CHARACTERS):
            with library_errors("cannot encode this text"):
                encoded = self._inner.encode_batch(chunk, add_special_tokens=False)
            for text, encoding in zip(chunk, encoded, strict=True):
                ids = np.array(encoding.ids, dtype=np.int32)
                parts.append(ids)
                if (ids == unknown_id).any():
                    found = find_unknown_spans(text, encoding, unknown_id)
                    spans += found
                    lengths += self._byte_lengths(text, found)
        unk_bytes = np.array(lengths, dtype=np.int64)
        return EncodedTexts(
            *concatenate(parts), unk_bytes, np.zeros((len(texts), 2), np.int64), join_examples(filter(None, spans))
        )

    def _byte_lengths(self, text: str, spans: list[str]) -> list[int]:
        """Return the bytes of each unknown token of a text."""
        if not tokenizer_json.is_byte_level(self._table):
            return [len(span.encode("utf-8")) for span in spans]
        # A token stands for one missing byte, or for a run of them, of characters whose other bytes have tokens.
        _, n_bytes = self._dropped(text)
        return [n_bytes * (i + 1) // len(spans) - n_bytes * i // len(spans) for i in range(len(spans))]

    @cached_property
    def _dropped(self) -> DroppedCharacters:
        return DroppedCharacters(self._table, self._inner)


def _as_dropped(found: EncodedTexts, unknown_id: int) -> EncodedTexts:
    """Count unknown tokens as text without tokens: end-of-text, which stands for them, means something else as well."""
    owner = np.repeat(np.arange(len(found.counts)), found.counts)[found.ids == unknown_id]
    dropped = found.dropped.copy()
    np.add.at(dropped, owner, np.stack([np.ones_like(found.unk_bytes), found.unk_bytes], axis=1))
    return replace(found, unk_bytes=np.zeros(0, np.int64), dropped=dropped)


def concatenate(parts: list[np.ndarray]) -> EncodedBatch:
    """Join the ids of texts; return them with the number of ids of each text."""
    counts = np.array([len(p) for p in parts], dtype=np.int64)
    flat = np.concatenate(parts) if parts else np.zeros(0)
    return flat.astype(np.int32, copy=False), counts
