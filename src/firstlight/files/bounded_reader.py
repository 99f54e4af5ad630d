"""Read a foreign binary file without believing what it says of itself: every read is held to the file's real size."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.errors import Failure

if TYPE_CHECKING:
    import numpy as np


class Bytes:
    """A file, read from front to back.

    Args:
        path: mapped, not read.
        error: what is raised where it ends too early.

    Raises:
        Failure: of the kind ``error``: it is empty or cannot be opened.
    """

    def __init__(self, path: Path, error: type[Failure]) -> None:
        self.path, self.at, self._error = path, 0, error
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as refused:
            raise error(f"cannot be read: {refused}", where=path) from refused
        self.size = len(self._map)

    @property
    def left(self) -> int:
        """Bytes that follow."""
        return self.size - self.at

    def take(self, n: int) -> bytes:
        """Return the next ``n`` bytes."""
        self.need(n)
        self.at += n
        return self._map[self.at - n : self.at]

    def need(self, n: int) -> None:
        """Raise where fewer than ``n`` bytes follow."""
        if not 0 <= n <= self.left:
            raise self._error(
                "is cut, or damaged",
                where=self.path,
                found=f"{max(self.left, 0):,} bytes from byte {self.at:,} on",
                expected=f"{n:,}",
            )

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Return little-endian numbers in the format of ``struct``."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def text(self, n: int) -> str:
        """Return the next ``n`` bytes as text."""
        try:
            return self.take(n).decode("utf-8")
        except UnicodeDecodeError as refused:
            raise self._error(f"has a text that is no UTF-8: {refused}", where=self.path) from refused

    def array(self, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
        """Return the next numbers; they lie in the file until they are used."""
        import numpy as np  # as the commands that read no such file do without it

        count = math.prod(map(int, shape))
        self.need(count * dtype.itemsize)
        values = np.frombuffer(self._map, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return values.reshape([int(n) for n in shape])
