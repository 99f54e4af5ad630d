"""Temporary copies of text that is read more than once, in files without a name: none stays behind after a kill."""

import io
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from firstlight.files import storage_errors
from firstlight.types import Document

_SPOOL_BYTES = 8 << 20
_BLOCK_BYTES = 1 << 20


class SpooledDocument:
    """The pieces of one document, in memory or, if it is long, on disk."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, prefix="firstlight-")  # noqa: SIM115 - closed by pieces
        self._frames: list[tuple[Document, int, np.dtype | None]] = []

    def append(self, piece: Document) -> bytes:
        """Add a piece; return its bytes."""
        content = piece.content
        data = content.encode("utf-8") if isinstance(content, str) else content.tobytes()
        with storage_errors(Path(tempfile.gettempdir())):
            self._file.write(data)
        self._frames.append((replace(piece, content=""), len(data), getattr(content, "dtype", None)))
        return data

    def pieces(self) -> Iterator[Document]:
        """Yield all pieces, once."""
        self._file.seek(0)
        with self._file:
            for frame, size, dtype in self._frames:
                data = self._file.read(size)
                yield replace(frame, content=data.decode("utf-8") if dtype is None else np.frombuffer(data, dtype))

    def close(self) -> None:
        """Discard the pieces."""
        self._file.close()


class SpooledStream:
    """A copy of a stream that can be read once, such as standard input.

    Attributes:
        size: bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        with storage_errors(Path(tempfile.gettempdir())):
            # Without a name where the system allows it; otherwise it is removed when it is closed.
            self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix="firstlight-"))  # noqa: SIM115
            shutil.copyfileobj(stream, self._file, _BLOCK_BYTES)
        self.size = self._file.tell()
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()

    def open(self) -> io.BufferedReader:
        """Open the copy for reading from its start."""
        return io.BufferedReader(_SharedFile(self._file, self._lock), _BLOCK_BYTES)


class _SharedFile(io.RawIOBase):
    """A file that is read at several positions independently."""

    def __init__(self, file: BinaryIO, lock: threading.Lock) -> None:
        self._file, self._lock, self._pos = file, lock, 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        with self._lock:
            self._file.seek(self._pos)
            data = self._file.read(len(target))
        target[: len(data)] = data
        self._pos += len(data)
        return len(data)
