"""Read arrays from untrusted files: NumPy's ``.npy`` and MNIST's IDX, whole or in chunks.

IDX: two zero bytes, a type code, the number of axes, then the length of each axis, big endian (uint32).
Source: numpy.lib.format; yann.lecun.com/exdb/mnist.
"""

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from firstlight.errors import CorpusError, Failure
from firstlight.files.bounded_reader import BoundedReader
from firstlight.files.compression import COMPRESSED, open_compressed

NPY_MAGIC = b"\x93NUMPY"
_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_MAX_HEADER_BYTES = 10_000  # as in numpy
_CHUNK_BYTES = 1 << 20
_MAX_ELEMENTS = 1 << 56  # more than any disk holds; NumPy cannot count many more
_NUMBERS = re.compile(r"[<>=|]?[iufb][1248]")
_KIND_NAMES = {"i": "int", "u": "uint", "f": "float", "b": "bool"}
_PYTHON2_LONG = re.compile(r"(?<=[0-9])L\b")


class Readable(Protocol):
    """What a header is read from: an open binary file, or a BoundedReader."""

    def read(self, n: int, /) -> bytes:
        """Read up to ``n`` bytes."""
        ...


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """The form of an array in a file.

    Attributes:
        shape: length of each axis.
        dtype: type and byte order of the numbers.
        fortran_order: the first axis varies fastest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool = False

    @property
    def size(self) -> int:
        """Count the elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{' × '.join(map(str, self.shape))} numbers of type {self.dtype}"


def is_idx(start: bytes) -> bool:
    """Whether a file that starts with these bytes is an IDX file."""
    return len(start) >= 4 and start[:2] == b"\0\0" and start[2] in _IDX_TYPES and 1 <= start[3] <= 4


def read_array_header(file: BinaryIO, path: Path, *, error: type[Failure] = CorpusError) -> ArrayHeader:
    """Read the header of an ``.npy`` or IDX file; ``file`` is then at the first element.

    Raises:
        Failure: of the class ``error``: another format, damaged, in Fortran order, or the file size is wrong.
    """
    start = file.read(8)
    if start[: len(NPY_MAGIC)] == NPY_MAGIC:
        header = read_npy_header(file, path, start, error=error)
    elif is_idx(start):
        header = read_idx_header(file, path, start, error=error)
    else:
        raise error("is neither an .npy nor an IDX file", where=path, found=f"first bytes {start.hex(' ')}")
    if header.fortran_order and len(header.shape) > 1:
        raise error(
            "is in Fortran order",
            where=path,
            fix="Save it as numpy.save(PATH, numpy.ascontiguousarray(ARRAY))",
        )
    if path.suffix.lower() not in COMPRESSED:
        found, expected = path.stat().st_size, file.tell() + header.size * header.dtype.itemsize
        if found != expected:
            raise error(
                "is truncated or too long", where=path, found=f"{found} bytes", expected=f"{expected}, for {header}"
            )
    return header


def read_npy_header(
    file: Readable, path: Path, start: bytes, *, kinds: str = "iufb", error: type[Failure] = CorpusError
) -> ArrayHeader:
    """Read the header of an ``.npy`` file whose first eight bytes, ``start``, were read already.

    NumPy's own reader is not used: it warns about damaged headers, and tries to repair them.

    Args:
        file: the file.
        path: its name in messages.
        start: its first eight bytes.
        kinds: accepted ``dtype.kind``.
        error: class of the error.

    Raises:
        Failure: of the class ``error``: the header is damaged, or the elements are not plain numbers.
    """
    if len(start) < 8 or start[:6] != NPY_MAGIC or start[6] not in (1, 2):
        raise error("is not an .npy file of version 1 or 2", where=path, found=repr(start))
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if length > _MAX_HEADER_BYTES:
        raise error("has an invalid .npy header", where=path, found=f"{length:,} bytes")
    text = file.read(length).decode("latin-1").strip()
    try:
        if "\\" in text:  # Python would warn about what it takes for an escape
            raise ValueError("a backslash")
        table = ast.literal_eval(_PYTHON2_LONG.sub("", text))
        descr, fortran_order, shape = table["descr"], table["fortran_order"], tuple(table["shape"])
        dtype = np.dtype(descr) if isinstance(descr, str) and _NUMBERS.fullmatch(descr) else None
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as refused:
        raise error("has an invalid .npy header", where=path, found=repr(text[:60])) from refused
    valid = all(type(n) is int and 0 <= n <= _MAX_ELEMENTS for n in shape) and isinstance(fortran_order, bool)
    if not valid or math.prod(n or 1 for n in shape) > _MAX_ELEMENTS:
        raise error("has an invalid shape", where=path, found=f"{len(shape)} axes")
    if dtype is None or dtype.kind not in kinds:
        expected = " or ".join(name for kind, name in _KIND_NAMES.items() if kind in kinds)
        raise error("holds no numbers of an accepted type", where=path, found=repr(descr)[:60], expected=expected)
    return ArrayHeader(shape, dtype, fortran_order)


def read_idx_header(file: Readable, path: Path, start: bytes, *, error: type[Failure] = CorpusError) -> ArrayHeader:
    """Read the header of an IDX file whose first eight bytes, ``start``, were read already.

    Raises:
        Failure: of the class ``error``: it is truncated, or claims too many numbers.
    """
    n = start[3]
    sizes = start[4:] + file.read(4 * n - 4)
    if len(sizes) < 4 * n:
        raise error("is truncated within its header", where=path)
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    if math.prod(n or 1 for n in shape) > _MAX_ELEMENTS:
        raise error("has an invalid shape", where=path, found=shape)
    return ArrayHeader(shape, np.dtype(_IDX_TYPES[start[2]]))


def iter_chunks(
    file: BinaryIO,
    path: Path,
    header: ArrayHeader,
    *,
    chunk_size: int = _CHUNK_BYTES,
    error: type[Failure] = CorpusError,
) -> Iterator[np.ndarray]:
    """Yield the elements in file order, 1-D, ``chunk_size`` at a time (the last ones fewer).

    Raises:
        Failure: of the class ``error``: the file is shorter or longer than its header says.
    """
    left, itemsize = header.size, header.dtype.itemsize
    while left:
        data = _read_up_to(file, min(left, chunk_size) * itemsize)
        if len(data) < min(left, chunk_size) * itemsize:
            found = header.size - left + len(data) // itemsize
            raise error("is truncated", where=path, found=f"{found} numbers", expected=header.size)
        left -= len(data) // itemsize
        yield np.frombuffer(data, header.dtype)
    if file.read(1):
        raise error("has data after its last number", where=path, expected=f"{header.size} numbers")


def _read_up_to(file: BinaryIO, n: int) -> bytes:
    """Read ``n`` bytes in blocks; one call would allocate whatever a header claims."""
    data = bytearray()
    while len(data) < n and (block := file.read(min(n - len(data), _CHUNK_BYTES))):
        data += block
    return bytes(data)


def load_array(path: Path, *, max_size: int, error: type[Failure] = CorpusError) -> np.ndarray:
    """Load an ``.npy`` or IDX file, compressed or not, of at most ``max_size`` elements.

    Raises:
        Failure: of the class ``error``: it is larger, or damaged.
    """
    with open_compressed(path, error=error) as file:
        header = read_array_header(file, path, error=error)
        if header.size > max_size:
            raise error("has too many numbers", where=path, found=header.size, expected=f"at most {max_size}")
        chunks = list(iter_chunks(file, path, header, error=error))
    return np.concatenate(chunks).reshape(header.shape) if chunks else np.zeros(header.shape, header.dtype)


def read_npy(reader: BoundedReader, *, kinds: str = "iufb") -> np.ndarray:
    """Read an ``.npy`` file in C or Fortran order; in a plain file the array stays mapped until it is used.

    Args:
        reader: at the start of the file.
        kinds: accepted ``dtype.kind``, such as "f" for floating-point arrays.

    Raises:
        Failure: of the reader's error class: damaged or truncated, or of another type.
    """
    header = read_npy_header(reader, reader.path, reader.read(8, "its header"), kinds=kinds, error=reader.error)
    shape = header.shape
    if not header.fortran_order:
        return reader.read_array(header.dtype, shape)
    return reader.read_array(header.dtype, shape[::-1]).T
