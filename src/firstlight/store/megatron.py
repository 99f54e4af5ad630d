"""Megatron-LM's indexed dataset: ids in ``.bin``, lengths and document bounds in ``.idx``.

``.idx``, little endian: magic, version 1 (uint64), type code (uint8), number of sequences and of document
bounds (uint64 each), sequence lengths (int32), their byte offsets (int64), document bounds as sequence numbers (int64).
"""

import struct
from pathlib import Path

import numpy as np

from firstlight.errors import StoreError

MAGIC = b"MMIDIDX\x00\x00"
_CODES: dict[int, np.dtype] = {
    code: np.dtype(name) for code, name in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items()
}
_MAX_SEQUENCE = 2**31 - 1


def smallest_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest of Megatron's types that can hold every id."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<i4")


def write_index(path: Path, lengths: np.ndarray, dtype: np.dtype) -> None:
    """Write the index of documents of ``lengths`` tokens; one longer than int32 can hold becomes several sequences."""
    pieces = np.maximum(1, -(-lengths // _MAX_SEQUENCE))
    sequences = np.repeat(lengths, pieces)
    bounds = np.concatenate(([0], np.cumsum(pieces))).astype("<i8")
    for document in np.flatnonzero(pieces > 1):
        first, last = bounds[document], bounds[document + 1]
        sequences[first : last - 1] = _MAX_SEQUENCE
        sequences[last - 1] = lengths[document] - _MAX_SEQUENCE * (last - 1 - first)
    offsets = np.concatenate(([0], np.cumsum(sequences)[:-1])) * dtype.itemsize if len(sequences) else np.zeros(0)
    code = next(c for c, d in _CODES.items() if d == dtype)
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<QBQQ", 1, code, len(sequences), len(bounds)))
        for array, kind in ((sequences, "<i4"), (offsets, "<i8"), (bounds, "<i8")):
            file.write(np.ascontiguousarray(array, dtype=kind).tobytes())


def read_index(path: Path) -> tuple[np.ndarray, np.dtype]:
    """Read an index; return the token offset of each document and the end, and the dtype of the ids.

    Raises:
        StoreError: the file is not an index, is truncated, or inconsistent.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError("missing", where=path) from error
    head = len(MAGIC) + 25
    if len(data) < head or data[: len(MAGIC)] != MAGIC:
        raise StoreError("is not a Megatron index", where=path)
    version, code, n_sequences, n_bounds = struct.unpack("<QBQQ", data[len(MAGIC) : head])
    if version != 1 or code not in _CODES:
        raise StoreError(
            "has another version or type",
            where=path,
            found=f"version {version}, type {code}",
            expected=f"version 1 and one of the types {sorted(_CODES)}",
            fix="Write it again as int32 or uint16.",
        )
    if len(data) != head + 12 * n_sequences + 8 * n_bounds:
        raise StoreError(
            "is truncated or too long",
            where=path,
            found=f"{len(data)} bytes",
            expected=head + 12 * n_sequences + 8 * n_bounds,
        )
    lengths = np.frombuffer(data, "<i4", n_sequences, head).astype(np.int64)
    offsets = np.frombuffer(data, "<i8", n_sequences, head + 4 * n_sequences)
    bounds = np.frombuffer(data, "<i8", n_bounds, head + 12 * n_sequences)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    dtype = _CODES[code]
    valid = len(bounds) > 0 and bounds[0] == 0 and bounds[-1] == n_sequences and bool((np.diff(bounds) >= 0).all())
    if not valid or (lengths < 0).any() or not np.array_equal(starts[:-1] * dtype.itemsize, offsets):
        raise StoreError("is inconsistent: lengths, offsets and document bounds do not match", where=path)
    return starts[bounds], dtype


def open_megatron(prefix: Path) -> tuple[np.ndarray, np.ndarray]:
    """Open ``prefix.bin`` and ``prefix.idx``; return the memory-mapped ids and the document bounds.

    Raises:
        StoreError: a file is missing or damaged, or the two do not match.
    """
    bounds, dtype = read_index(prefix.with_name(prefix.name + ".idx"))
    path = prefix.with_name(prefix.name + ".bin")
    if not path.is_file():
        raise StoreError("missing", where=path)
    size = path.stat().st_size
    if size != int(bounds[-1]) * dtype.itemsize:
        raise StoreError(
            "is truncated or too long", where=path, found=f"{size} bytes", expected=int(bounds[-1]) * dtype.itemsize
        )
    ids = np.memmap(path, dtype=dtype, mode="r") if size else np.zeros(0, dtype)
    return ids, bounds
