"""Texts and encoders for tests of the store, which never sees a tokenizer's code."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from firstlight.store import DataSettings, TokenStore, prepare
from firstlight.tokenizer.unknown import nothing_unknown
from firstlight.types import Document, EncodedTexts

EOT = 256


class Bytes:
    """Encodes text as its UTF-8 bytes; end-of-text is 256.

    Args:
        vocab_size: says that there are more ids than it gives.
        cut: where a text may be cut; anywhere by default.
    """

    eot_id = EOT

    def __init__(self, vocab_size: int = 257, cut: Callable[[str], int] = len, name: str = "bytes") -> None:
        self.vocab_size, self._cut, self.hash = vocab_size, cut, name * 8

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes of all texts."""
        encoded = [text.encode() for text in texts]
        ids = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int32)
        return ids, np.array([len(e) for e in encoded], dtype=np.int64)

    unknown_id, has_unknown = None, False

    def encode_counted(self, texts: list[str]) -> EncodedTexts:
        """Nothing is unknown."""
        return nothing_unknown(*self.encode_batch(texts))

    def split_point(self, text: str) -> int:
        """Return where a text may be cut."""
        return self._cut(text)

    def byte_lengths(self) -> np.ndarray:
        """Every byte is one."""
        return np.array([1] * 256 + [0] * (self.vocab_size - 256), dtype=np.int32)


class Texts:
    """A source of given documents: a text, or a list of the pieces of a long one."""

    def __init__(self, documents: Sequence[str | list[str]], name: str = "texts", marks: str = "1") -> None:
        self._documents, self.name, self._marks = documents, name, marks
        self.n_bytes = sum(len("".join(d).encode()) for d in documents)
        self.read = 0

    def documents(self) -> Iterator[Document]:
        """Yield the documents, in pieces where they have some."""
        self.read += 1
        for number, document in enumerate(self._documents, start=1):
            pieces = [document] if isinstance(document, str) else document
            for i, piece in enumerate(pieces):
                yield Document(piece, f"{self.name}:{number}", continues=i + 1 < len(pieces))

    def fingerprint(self) -> str:
        """Say that the same marks are the same text."""
        return f"{self.name} {self._marks}"


def make(
    folder: Path,
    *sources: Texts | Sequence[str | list[str]],
    encoder: Bytes | None = None,
    seed: int = 1,
    valid: Sequence[Texts] = (),
    **settings: object,
) -> TokenStore:
    """Prepare a store of some texts."""
    given = [s if isinstance(s, Texts) else Texts(s, f"texts{i}") for i, s in enumerate(sources)]
    data = DataSettings.model_validate(settings)
    return prepare(folder, given, encoder or Bytes(), data, seed=seed, valid=valid)


def documents_of(store: TokenStore, side: str) -> list[bytes]:
    """Return the documents of a side as bytes, end-of-text as ``|``."""
    split = getattr(store, side)
    whole = np.where(split.tokens == EOT, ord("|"), split.tokens).astype(np.uint8).tobytes()
    return [whole[a:b] for a, b in zip(split.bounds[:-1].tolist(), split.bounds[1:].tolist(), strict=True)]
