"""Arrays in files: NumPy's ``.npy`` and MNIST's IDX. What a header says is believed when the bytes are there.

IDX: two zero bytes, a type code, the number of axes, then the length of each axis, big endian (uint32).
"""

import io
import math
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from firstlight.errors import CorpusError
from firstlight.files.compression import COMPRESSED, opened

NPY = b"\x93NUMPY"
_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_LONGEST_HEADER = 10_000
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """The form of an array in a file; its numbers follow, row by row."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def count(self) -> int:
        """Numbers in all."""
        return math.prod(self.shape)


def is_idx(first: bytes) -> bool:
    """Tell an IDX file by its first four bytes."""
    return len(first) >= 4 and first[:2] == b"\0\0" and first[2] in _IDX_TYPES and 1 <= first[3] <= 4


def read_header(file: BinaryIO, path: Path) -> Header:
    """Read the header of either format; the file then stands at the first number.

    Raises:
        CorpusError: it is neither, or damaged, or the file is not as long as it says.
    """
    first = file.read(8)
    if first[: len(NPY)] == NPY:
        header = npy_header(file, path, first)
    elif is_idx(first):
        header = idx_header(file, path, first)
    else:
        raise CorpusError("is no array: neither .npy nor IDX", where=path, found=f"first bytes {first.hex(' ')}")
    if path.suffix.lower() not in COMPRESSED:
        has, needs = path.stat().st_size, file.tell() + header.count * header.dtype.itemsize
        if has != needs:
            raise CorpusError(
                "is cut or overlong",
                where=path,
                found=f"{has} bytes",
                expected=f"{needs}, for {' × '.join(map(str, header.shape))} numbers of type {header.dtype}",
            )
    return header


def npy_header(file: BinaryIO, path: Path, first: bytes) -> Header:
    """Read on in an ``.npy`` file whose eight first bytes are known.

    Raises:
        CorpusError: it is damaged, or holds Python objects, or is stored column by column.
    """
    wide = len(first) == 8 and first[6] > 1
    size = file.read(4 if wide else 2)
    length = int.from_bytes(size, "little")
    text = file.read(length) if length <= _LONGEST_HEADER else b""
    read = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
    try:
        shape, by_column, dtype = read(io.BytesIO(size + text))
        if dtype.kind not in "iufb" or min(shape, default=0) < 0:
            raise ValueError(f"type {dtype}, shape {shape}")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CorpusError("has no header of numbers", where=path, found=reason) from error
    if by_column and len(shape) > 1:
        raise CorpusError(
            "is stored column by column",
            where=path,
            fix="Save it as numpy.save(PATH, numpy.ascontiguousarray(ARRAY))",
        )
    return Header(tuple(map(int, shape)), dtype)


def idx_header(file: BinaryIO, path: Path, first: bytes) -> Header:
    """Read on in an IDX file whose eight first bytes are known.

    Raises:
        CorpusError: it is cut.
    """
    n = first[3]
    sizes = first[4:] + file.read(4 * n - 4)
    if len(sizes) < 4 * n:
        raise CorpusError("is cut within its header", where=path)
    return Header(tuple(np.frombuffer(sizes, ">u4").tolist()), np.dtype(_IDX_TYPES[first[2]]))


def stretches(file: BinaryIO, path: Path, header: Header, most: int = _AT_ONCE) -> Iterator[np.ndarray]:
    """Yield the numbers, 1-D, ``most`` at a time (the last ones fewer).

    Raises:
        CorpusError: the file ends before or after what its header says.
    """
    left, size = header.count, header.dtype.itemsize
    while left:
        data = _exactly(file, min(left, most) * size)
        if len(data) < min(left, most) * size:
            has = header.count - left + len(data) // size
            raise CorpusError("is cut short", where=path, found=f"{has} numbers", expected=header.count)
        left -= len(data) // size
        yield np.frombuffer(data, header.dtype)
    if file.read(1):
        raise CorpusError("goes on after its numbers", where=path, expected=f"{header.count} of them")


def _exactly(file: BinaryIO, n: int) -> bytes:
    """Read ``n`` bytes, or all that there are: a read of what a header claims would make room for it first."""
    data = bytearray()
    while len(data) < n and (more := file.read(min(n - len(data), _AT_ONCE))):
        data += more
    return bytes(data)


def read_whole(path: Path, *, most: int) -> np.ndarray:
    """Return a whole array of no more than ``most`` numbers.

    Raises:
        CorpusError: it is larger, or damaged.
    """
    with opened(path) as file:
        header = read_header(file, path)
        if header.count > most:
            raise CorpusError("holds too much", where=path, found=f"{header.count} numbers", expected=f"at most {most}")
        parts = list(stretches(file, path, header))
    return np.concatenate(parts).reshape(header.shape) if parts else np.zeros(header.shape, header.dtype)
