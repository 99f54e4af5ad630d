"""Read untrusted binary files: every read is checked against the real size of the file before memory is allocated."""

from __future__ import annotations

import gzip
import io
import math
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from firstlight.errors import Failure
from firstlight.files.limits import DEFAULT_LIMITS, open_regular

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_GZIP_RATIO = 1100  # deflate cannot compress further
_CHUNK_BYTES = 1 << 20


class BoundedReader:
    """A binary file, read front to back; plain files can also seek. A context manager where the file may be gzipped.

    A plain file is memory-mapped. A gzipped one (recognised by its first bytes, with ``decompress``) is decompressed
    as it is read, and its size is known only as an upper bound.

    Args:
        path: the file.
        error: the class raised when the file cannot be opened, ends too early or is malformed.
        decompress: accept a gzipped file.
        on_read: called with the number of stored bytes consumed, about every megabyte.

    Attributes:
        offset: bytes read so far, decompressed; assign to it to seek in a plain file.
        line_number: lines read so far by ``readline``.
        size: bytes of the file; of a gzipped one, the most that it can hold.

    Raises:
        Failure: of the class ``error``, if the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        error: type[Failure],
        *,
        decompress: bool = False,
        on_read: Callable[[int], object] | None = None,
    ) -> None:
        self.path, self.offset, self.line_number = path, 0, 0
        self.error, self._on_read = error, on_read
        self._reported_at = self._reported_bytes = 0
        self._packed: io.BufferedReader | None = None
        try:
            file = open_regular(path, error=error)
            stored = os.fstat(file.fileno()).st_size
            self.is_gzipped = decompress and file.peek(2)[:2] == _GZIP_MAGIC
            if self.is_gzipped:
                self._packed, self._file = file, io.BufferedReader(gzip.GzipFile(fileobj=file), _CHUNK_BYTES)
                self.size = min(stored * _MAX_GZIP_RATIO, DEFAULT_LIMITS.max_decompressed_bytes(stored))
                return
            with file:  # an empty file cannot be mapped
                self._map: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if stored else b""
            self.size = len(self._map)
        except (OSError, ValueError) as refused:
            reason = getattr(refused, "strerror", None) or refused
            raise error(f"cannot be read: {reason}", where=path) from refused

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close a gzipped file; the mapping of a plain one lives as long as the arrays that were read from it."""
        if self._packed is not None:
            self._packed.close()

    @property
    def remaining(self) -> int:
        """Bytes that follow; of a gzipped file, an upper bound."""
        return self.size - self.offset

    def require(self, n: int, what: str = "its contents") -> None:
        """Check that ``n`` more bytes can follow, before anything is allocated for them.

        Raises:
            Failure: the file is truncated, or its header claims too much.
        """
        if not 0 <= n <= self.remaining:
            self._fail_truncated(max(self.remaining, 0), n, what)

    def read(self, n: int, what: str = "its contents") -> bytes:
        """Read exactly ``n`` bytes; ``what`` names them in the error message."""
        self.require(n, what)
        data = self.read_up_to(n)
        if len(data) < n:
            self._fail_truncated(len(data), n, what)
        return data

    def read_up_to(self, limit: int) -> bytes:
        """Read ``limit`` bytes, or as many as the file has left."""
        if self._packed is None:
            data = self._map[self.offset : self.offset + limit]
        else:
            parts, left = [], limit
            while left and (part := self._decompress(self._file.read, min(left, _CHUNK_BYTES))):
                parts.append(part)
                left -= len(part)
            data = b"".join(parts)
        self._advance(len(data))
        return data

    def read_all(self) -> bytes:
        """Read the rest of the file."""
        return self.read_up_to(self.remaining)

    def readline(self, limit: int) -> bytes:
        r"""Read a line with its ``\n``; b"" at the end of the file.

        Raises:
            Failure: the line is longer than ``limit`` bytes.
        """
        if self._packed is None:
            end = self._map.find(b"\n", self.offset, self.offset + limit + 1)
            line = self._map[self.offset : end + 1 if end >= 0 else self.offset + limit + 1]
        else:
            line = self._decompress(self._file.readline, limit + 1)
        self._advance(len(line))
        self.line_number += bool(line)
        if len(line) > limit:
            self.fail("line too long", line=True, expected=f"at most {limit:,} bytes")
        return line

    def read_until(self, delimiter: bytes, limit: int, what: str = "a word") -> bytes:
        """Read up to the byte ``delimiter``, which is consumed but not returned.

        Raises:
            Failure: it does not occur within ``limit`` bytes.
        """
        found = b""
        while True:
            if self._packed is None:
                ahead = self._map[self.offset : self.offset + limit + 1]
            else:
                ahead = self._decompress(self._file.peek, 1)
            i = ahead.find(delimiter)
            found += self.read_up_to(i + 1 if i >= 0 else len(ahead))
            if i >= 0 and len(found) <= limit + 1:
                return found[:-1]
            if not ahead or len(found) > limit:
                self.fail(f"is truncated or damaged: {what} has no end", found=repr(found[:20]))

    def unpack(self, fmt: str) -> tuple[Any, ...]:
        """Read little-endian numbers in a format of ``struct``, such as "2Iq"."""
        return struct.unpack(f"<{fmt}", self.read(struct.calcsize(f"<{fmt}")))

    def read_text(self, n: int) -> str:
        """Read ``n`` bytes of UTF-8."""
        start = self.offset
        try:
            return self.read(n).decode("utf-8")
        except UnicodeDecodeError as refused:
            raise self.error(f"a string is not UTF-8: {refused}", where=f"{self.path}: byte {start:,}") from refused

    def read_array(self, dtype: np.dtype, shape: Sequence[int], what: str = "") -> np.ndarray:
        """Read an array in C order; in a plain file it stays mapped until it is used."""
        import numpy as np  # as the commands that read no such file do without it

        shape = [int(n) for n in shape]
        count = math.prod(shape)
        n_bytes, what = count * dtype.itemsize, what or f"{' × '.join(map(str, shape))} numbers"
        if not n_bytes:
            return np.zeros(shape, dtype)
        if self._packed is not None:
            return np.frombuffer(self.read(n_bytes, what), dtype, count).reshape(shape)
        self.require(n_bytes, what)
        values = np.frombuffer(self._map, dtype, count, self.offset)
        self._advance(n_bytes)
        return values.reshape(shape)

    def fail(
        self,
        problem: str,
        *,
        line: bool = False,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> NoReturn:
        """Raise the reader's error with the file and the current byte (or line) in front."""
        where = f"{self.path}:{self.line_number}" if line else f"{self.path}: byte {self.offset:,}"
        raise self.error(problem, where=where, found=found, expected=expected, fix=fix)

    def _fail_truncated(self, found: int, n: int, what: str) -> NoReturn:
        at_most = "at most " if self.is_gzipped and found == self.remaining else ""
        self.fail(
            f"is truncated or damaged: not enough bytes for {what}",
            found=f"{at_most}{found:,} bytes",
            expected=f"{n:,}",
        )

    def _decompress(self, read: Callable[[int], bytes], n: int) -> bytes:
        try:
            return read(n)
        except (OSError, EOFError, zlib.error) as error:
            raise self.error(f"cannot be decompressed: {error}", where=self.path) from error

    def _advance(self, n: int) -> None:
        self.offset += n
        if self._packed is not None:
            DEFAULT_LIMITS.check_ratio(self.offset, self._packed.tell(), self.path, error=self.error)
        if self._on_read is not None and self.offset - self._reported_at >= _CHUNK_BYTES:
            stored = self.offset if self._packed is None else self._packed.tell()
            self._on_read(stored - self._reported_bytes)
            self._reported_at, self._reported_bytes = self.offset, stored
