"""Encode with fastokens, many times faster than tokenizers, as long as the two give the same ids.

They are compared on probe texts when a tokenizer is loaded, and on the first part of the real text. Where fastokens is
not installed, cannot read the tokenizer or gives different ids, tokenizers is used instead, with a notice.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from firstlight import progress
from firstlight.tokenizer.untrusted import is_library_error

EncodedBatch = tuple[np.ndarray, np.ndarray]

_PROBES = [
    "",
    " ",
    "\n\n  x\t\r\n",
    "Hello, world! It's 2024's 1234567 don't DON'T",
    "naïve café ÆØÅ ß ſ İ",
    "你好，世界。这是 一个测试！",
    "def f(x):\n    return x**2  # note\n\n\n",
    "😀👩‍👩‍👧 e\u0301 \u200b\u00a0 ́",
    "<|endoftext|> <unk> </s>",
    "a" * 300 + " " * 70 + "!?" * 40,
    "\x00\x7f\ufffd",
]
_COMPARED_CHARACTERS = 1 << 18
_CHUNK_CHARACTERS = 1 << 22


class FastEncoder:
    """Encodes with fastokens until it disagrees with tokenizers.

    Args:
        native: fastokens' tokenizer.
        reference: encodes with tokenizers.
    """

    def __init__(self, native: Any, reference: Callable[[list[str]], EncodedBatch]) -> None:
        self._native, self._reference = native, reference
        self._uncompared = _COMPARED_CHARACTERS
        self.trusted = True

    @classmethod
    def load(
        cls, table: dict[str, Any], reference: Callable[[list[str]], EncodedBatch], probes: Sequence[str]
    ) -> "FastEncoder | None":
        """Create a fast encoder that agrees on all probes; None, with a notice of the reason, if that is not possible.

        Args:
            table: tokenizer.json.
            reference: encodes with tokenizers.
            probes: further texts to compare.
        """
        try:
            import fastokens
        except ImportError:
            progress.notice("fastokens is not installed: encoding with tokenizers, several times slower")
            return None
        texts = [*_PROBES, *probes]
        try:
            encoder = cls(fastokens.Tokenizer.from_json_str(json.dumps(_without_trailing_special(table))), reference)
            encoded = encoder._encode(texts)
        except BaseException as error:  # whatever fastokens cannot read, tokenizers encodes; a panic is no Exception
            if not is_library_error(error):
                raise
            progress.notice(f"fastokens cannot read this tokenizer ({error}): encoding with tokenizers")
            return None
        if not _equal(encoded, reference(texts)):
            progress.warn("fastokens and tokenizers give different ids on probe texts: encoding with tokenizers")
            return None
        return encoder

    def __call__(self, texts: list[str]) -> EncodedBatch | None:
        """Encode as ``Tokenizer.encode_batch`` does; None from the first disagreement on.

        Raises:
            UnicodeEncodeError: a text has a lone surrogate.
        """
        try:
            if self._uncompared <= 0 or self._agrees(texts):
                return self._encode(texts)
        except (UnicodeEncodeError, TypeError):
            raise
        except BaseException as error:  # such as a limit of its regular expressions
            if not is_library_error(error):
                raise
            progress.warn(f"fastokens cannot encode this text ({error}): encoding with tokenizers, which is slower")
        self.trusted = False
        return None

    def _agrees(self, texts: list[str]) -> bool:
        sample = []
        for text in texts:
            if self._uncompared <= 0:
                break
            sample.append(text[: self._uncompared])
            self._uncompared -= len(text)
        if _equal(self._encode(sample), self._reference(sample)):
            return True
        progress.warn(
            "fastokens and tokenizers give different ids on this text: encoding with tokenizers, which is slower"
        )
        return False

    def _encode(self, texts: list[str]) -> EncodedBatch:
        groups = [*chunks(texts, _CHUNK_CHARACTERS)] or [[]]
        # In chunks of some megabytes, which reuse the same memory pages: twice as fast for a large batch.
        parts = [self._native.encode_batch_flat(chunk, split_special_tokens=True) for chunk in groups]
        ids = [np.frombuffer(data, dtype=np.int32) for data, _ in parts]
        counts = [np.diff(np.frombuffer(ends, dtype=np.uint64).astype(np.int64)) for _, ends in parts]
        return (ids[0], counts[0]) if len(parts) == 1 else (np.concatenate(ids), np.concatenate(counts))


def chunks(texts: list[str], n_characters: int) -> Iterator[list[str]]:
    """Group texts of about ``n_characters`` together, so that an encoder needs little memory for each group."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= n_characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _without_trailing_special(table: dict[str, Any]) -> dict[str, Any]:
    """Remove special tokens after a gap in the ids from the model's vocabulary, where fastokens rejects them."""
    model = table["model"]
    special = {t["content"]: t["id"] for t in table["added_tokens"] if t["special"]}
    last = max((i for token, i in model["vocab"].items() if token not in special), default=-1)
    has_gap = max(special.values(), default=-1) >= len(model["vocab"])
    trailing = {token for token, i in special.items() if has_gap and i > last}
    vocab = {token: i for token, i in model["vocab"].items() if token not in trailing}
    return {**table, "model": {**model, "vocab": vocab}}


def _equal(a: EncodedBatch, b: EncodedBatch) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
