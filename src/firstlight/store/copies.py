"""Find copies of documents that a split by position puts on both sides.

Only documents of equal length are read, so a corpus without copies costs next to nothing. Nearly equal documents are
not found.
"""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

_READ_BYTES = 1 << 22


def find_copies(file: BinaryIO, first: int, lengths: np.ndarray, keep: int, itemsize: int) -> Iterator[tuple[int, int]]:
    """Yield the documents of which ids are after the split, each with an equal one of which ids are before it.

    Args:
        file: of ids; its position changes.
        first: id at which the first document starts.
        lengths: ids of each document (N,).
        keep: number of ids before the split, counted from ``first``.
        itemsize: bytes of an id.
    """
    ends = np.cumsum(lengths)
    originals: dict[bytes, int] = {}
    values, n_of_length = np.unique(lengths, return_counts=True)
    for i in np.flatnonzero(np.isin(lengths, values[n_of_length > 1])).tolist():
        file.seek((first + int(ends[i] - lengths[i])) * itemsize)
        original = originals.setdefault(_digest(file, int(lengths[i]) * itemsize), i)
        if original != i and ends[i] > keep > ends[original] - lengths[original]:
            yield i, original


def _digest(file: BinaryIO, n_bytes: int) -> bytes:
    digest = hashlib.blake2b(n_bytes.to_bytes(8, "little"), digest_size=16)
    while n_bytes and (part := file.read(min(n_bytes, _READ_BYTES))):
        digest.update(part)
        n_bytes -= len(part)
    return digest.digest()
