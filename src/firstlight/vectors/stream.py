"""Read a file of vectors, gzipped or not, without believing what it says of its own size."""

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import storage_errors

_GZIP = b"\x1f\x8b"
_MOST_RATIO = 1100  # deflate makes nothing smaller than that
_CHUNK = 1 << 20


class Stream:
    """A file from front to back; a context. Every read is held to what the file can have.

    Args:
        path: gzipped where its first bytes say so.

    Attributes:
        at: bytes read so far, unpacked.
        lines: lines read so far.

    Raises:
        TokenizerError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.at, self.lines = path, 0, 0
        try:
            with storage_errors(path):
                self._raw = path.open("rb")
                self.is_packed = self._raw.peek(2)[:2] == _GZIP
        except OSError as error:
            raise TokenizerError(f"cannot be read: {error.strerror or error}", where=path) from error
        self._size = path.stat().st_size
        unpacked = io.BufferedReader(gzip.GzipFile(fileobj=self._raw), _CHUNK) if self.is_packed else None
        self._file: Any = unpacked or self._raw
        self._task = progress.Task("vectors", self._size, "B")
        self._told = self._shown = 0

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.finish()
        self._raw.close()

    @property
    def most_left(self) -> int:
        """The bytes that can follow at most; of a file that is not packed, exactly those that do."""
        return (self._size * _MOST_RATIO if self.is_packed else self._size) - self.at

    def need(self, n: int, what: str) -> None:
        """Refuse where ``n`` bytes cannot follow, before anything is made for them.

        Raises:
            TokenizerError: the file is cut, or says too much of itself.
        """
        if not 0 <= n <= self.most_left:
            self.refuse(
                f"is cut, or damaged: {what} do not fit into it",
                found=f"{self.most_left:,} bytes at most",
                expected=f"{n:,}",
            )

    def take(self, n: int, what: str = "its contents") -> bytes:
        """Return the next ``n`` bytes."""
        self.need(n, what)
        parts, left = [], n
        while left:
            part = self._read(min(left, _CHUNK))
            if not part:
                self.refuse(f"is cut, or damaged: {what} end too early", found=f"{n - left:,} bytes", expected=f"{n:,}")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def beginning(self, most: int) -> bytes:
        """Return the next ``most`` bytes, or as many as there are."""
        parts, left = [], most
        while left and (part := self._read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def rest(self) -> bytes:
        """Return all that follows."""
        parts = []
        while part := self._read(_CHUNK):
            parts.append(part)
        return b"".join(parts)

    def line(self, most: int) -> bytes:
        """Return the next line with its end; nothing at the end of the file.

        Raises:
            TokenizerError: it is longer than ``most`` bytes.
        """
        line = self._guarded(lambda: self._file.readline(most + 1))
        self._count(len(line))
        self.lines += bool(line)
        if len(line) > most:
            self.refuse("has a line that is too long", line=True, expected=f"at most {most:,} bytes")
        return line

    def until(self, end: bytes, most: int) -> bytes:
        """Return the bytes before the byte ``end``, which is read too.

        Raises:
            TokenizerError: there is none within ``most`` bytes.
        """
        found = b""
        while True:
            ahead = self._guarded(lambda: self._file.peek(1))
            i = ahead.find(end)
            found += self._read((i if i >= 0 else len(ahead)) + (i >= 0))
            if i >= 0 and len(found) <= most + 1:
                return found[:-1]
            if not ahead or len(found) > most:
                self.refuse("is cut, or damaged: a word has no end", found=repr(found[:20]))

    def refuse(self, problem: str, *, line: bool = False, found: object = None, expected: object = None) -> NoReturn:
        """Raise the one error of a file that cannot be read, with the line or the byte."""
        where = f"{self.path}:{self.lines}" if line else f"{self.path}: byte {self.at:,}"
        raise TokenizerError(problem, where=where, found=found, expected=expected)

    def _read(self, n: int) -> bytes:
        part = self._guarded(lambda: self._file.read(n))
        self._count(len(part))
        return part

    def _guarded(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except (OSError, EOFError, zlib.error) as error:
            raise TokenizerError(f"cannot be unpacked: {error}", where=self.path) from error

    def _count(self, n: int) -> None:
        self.at += n
        if self.at - self._told >= _CHUNK:
            now = self._raw.tell()
            self._task.advance(now - self._shown)
            self._told, self._shown = self.at, now
