"""Encoding with fastokens: many times faster than tokenizers, and trusted only where the two agree.

It is tried on probes when a tokenizer is loaded, and on the first real text that it is given. Where it is
missing, cannot read the tokenizer or gives another id anywhere, tokenizers encodes instead, and says so.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from firstlight import progress

Encoded = tuple[np.ndarray, np.ndarray]

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
_CHECKED_CHARACTERS = 1 << 18
_CHUNK_CHARACTERS = 1 << 22


class FastEncoder:
    """fastokens for one tokenizer, until it disagrees with tokenizers.

    Args:
        native: fastokens' object.
        reference: encodes with tokenizers.
    """

    def __init__(self, native: Any, reference: Callable[[list[str]], Encoded]) -> None:
        self._native, self._reference = native, reference
        self._unchecked = _CHECKED_CHARACTERS
        self.trusted = True

    @classmethod
    def load(
        cls, table: dict[str, Any], reference: Callable[[list[str]], Encoded], probes: Sequence[str]
    ) -> "FastEncoder | None":
        """Return a fast encoder that agrees on all probes, or None after saying why there is none.

        Args:
            table: tokenizer.json.
            reference: encodes with tokenizers.
            probes: further texts to try.
        """
        try:
            import fastokens
        except ImportError:
            progress.notice("fastokens is not installed: encoding with tokenizers, several times slower")
            return None
        texts = [*_PROBES, *probes]
        try:
            made = cls(fastokens.Tokenizer.from_json_str(json.dumps(_readable(table))), reference)
            found = made._ids(texts)
        except Exception as error:  # noqa: BLE001 - a tokenizer that it cannot read is encoded the slow way
            progress.notice(f"fastokens cannot read this tokenizer ({error}): encoding with tokenizers")
            return None
        if not _equal(found, reference(texts)):
            progress.warn("fastokens gives other ids than tokenizers on the probes: encoding with tokenizers")
            return None
        return made

    def __call__(self, texts: list[str]) -> Encoded | None:
        """Return ids and counts as ``Tokenizer.encode_batch`` does; None from the first disagreement on.

        Raises:
            UnicodeEncodeError: a text holds half a surrogate pair.
        """
        if self._unchecked > 0 and not self._agrees(texts):
            self.trusted = False
        return self._ids(texts) if self.trusted else None

    def _agrees(self, texts: list[str]) -> bool:
        sample = []
        for text in texts:
            if self._unchecked <= 0:
                break
            sample.append(text[: self._unchecked])
            self._unchecked -= len(text)
        if _equal(self._ids(sample), self._reference(sample)):
            return True
        progress.warn("fastokens gives other ids than tokenizers on this text: encoding with tokenizers, slower")
        return False

    def _ids(self, texts: list[str]) -> Encoded:
        # Some megabytes at a time: the same pages of memory serve again, which is half of the time for a large batch.
        parts = [self._native.encode_batch_flat(chunk, split_special_tokens=True) for chunk in _chunks(texts)]
        ids = [np.frombuffer(found, dtype=np.int32) for found, _ in parts]
        counts = [np.diff(np.frombuffer(ends, dtype=np.uint64).astype(np.int64)) for _, ends in parts]
        return (ids[0], counts[0]) if len(parts) == 1 else (np.concatenate(ids), np.concatenate(counts))


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk or not texts:
        yield chunk


def _readable(table: dict[str, Any]) -> dict[str, Any]:
    """Take special tokens that lie behind a gap of ids out of the model, where fastokens refuses them."""
    model = table["model"]
    behind = {t["content"] for t in table["added_tokens"] if t["special"] and t["id"] >= len(model["vocab"])}
    vocabulary = {token: i for token, i in model["vocab"].items() if token not in behind}
    return {**table, "model": {**model, "vocab": vocabulary}}


def _equal(a: Encoded, b: Encoded) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
