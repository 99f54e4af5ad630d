"""Limits on what reading one untrusted file may cost, the same for every reader.

A reader streams: it holds one document, never a file. The limits bound that document, and how far compressed data may
expand. A file of any size passes, as long as its ratio is one that real data has.
"""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from firstlight.errors import CorpusError, Failure

_UNCHECKED_BYTES = 64 << 20  # decompressed: blank pages and runs of zeros in a small file do no harm


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of reading one untrusted file.

    Attributes:
        max_document_bytes: largest unit that is held in memory: a record, line, JSON value, table row, page of a
            Parquet file or member of an archive, and the window of a decompressor.
        max_compression_ratio: decompressed bytes per compressed byte, checked after the first 64 MiB. Text has 3 to 10,
            logs up to about 100.
        max_seconds: processor time to read one document, or a piece of one that is read in pieces.
        settings_key: where these limits are set, such as "corpus.limits", for messages.
    """

    max_document_bytes: int = 128 << 20
    max_compression_ratio: float = 200.0
    max_seconds: float = 600.0
    settings_key: str = ""

    def fix(self, name: str) -> str | None:
        """Return what a message advises: the setting to raise, where there is one."""
        return f"If the file can be trusted, raise {self.settings_key}.{name}." if self.settings_key else None

    def check_size(self, n_bytes: int, what: str, where: object, *, error: type[Failure] = CorpusError) -> None:
        """Check the size of something that will be held in memory; ``what`` names it in the message.

        Raises:
            Failure: of the class ``error``: it is larger than ``max_document_bytes``.
        """
        if n_bytes > self.max_document_bytes:
            raise error(
                f"{what} is too large",
                where=where,
                found=f"more than {self.max_document_bytes:,} bytes",
                fix=self.fix("max_document_bytes"),
            )

    def check_ratio(
        self, n_decompressed: int, n_compressed: int, where: object, *, error: type[Failure] = CorpusError
    ) -> None:
        """Check how far compressed data has expanded, as it is read.

        Raises:
            Failure: of the class ``error``: further than ``max_compression_ratio``.
        """
        if n_decompressed > max(_UNCHECKED_BYTES, n_compressed * self.max_compression_ratio):
            raise error(
                "expands too far, as a decompression bomb does",
                where=where,
                found=f"{n_compressed:,} compressed bytes became more than {n_decompressed:,}",
                expected=f"a ratio of at most {self.max_compression_ratio:g}",
                fix=self.fix("max_compression_ratio"),
            )

    def max_decompressed_bytes(self, n_compressed: int) -> int:
        """Return the most bytes that this many compressed bytes may become."""
        return max(_UNCHECKED_BYTES, int(n_compressed * self.max_compression_ratio))


DEFAULT_LIMITS = Limits()


def open_regular(path: Path, *, error: type[Failure] = CorpusError) -> io.BufferedReader:
    """Open a regular file for reading bytes; a device, socket or named pipe is refused, without waiting for it.

    Raises:
        OSError: it is missing or not readable.
        Failure: of the class ``error``: it is something other than a file.
    """
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise error("is not a regular file", where=path, found=_describe(mode), expected="a file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, *, limits: Limits = DEFAULT_LIMITS, error: type[Failure] = CorpusError) -> bytes:
    """Read a whole file of at most ``max_document_bytes``.

    Raises:
        Failure: of the class ``error``: it is larger, missing, not readable or not a regular file.
    """
    try:
        with open_regular(path, error=error) as file:
            limits.check_size(os.fstat(file.fileno()).st_size, "the file", path, error=error)
            data = file.read(limits.max_document_bytes + 1)
    except OSError as refused:
        raise error(f"cannot be read: {refused.strerror or refused}", where=path) from refused
    limits.check_size(len(data), "the file", path, error=error)
    return data


class LimitedStream(io.RawIOBase):
    """A stream of decompressed bytes that ends with an error where it expands too far.

    Args:
        stream: yields the decompressed bytes.
        file: the compressed file that it reads, whose position is the number of bytes consumed.
        path: its name in messages.
        limits: the limits.
        error: class of the error.
    """

    def __init__(self, stream: Any, file: BinaryIO, path: Path, limits: Limits, error: type[Failure]) -> None:
        self._stream, self._file, self._path, self._limits, self._error = stream, file, path, limits, error
        self._n_bytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, target: Any) -> int:
        """Read the next decompressed bytes into ``target``; return their number, 0 at the end."""
        n = int(self._stream.readinto(target))
        self._n_bytes += n
        if self._n_bytes > _UNCHECKED_BYTES:
            self._limits.check_ratio(self._n_bytes, self._file.tell(), self._path, error=self._error)
        return n


def _describe(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
