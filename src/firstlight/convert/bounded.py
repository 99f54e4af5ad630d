"""Read a foreign binary file without believing what it says of itself: every read is held to the file's real size."""

import math
import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import CheckpointError


class Bytes:
    """A file, read from front to back; a context.

    Args:
        path: mapped, not read.

    Raises:
        CheckpointError: it is empty or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot be read: {error}", where=path) from error
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
        """Raise CheckpointError where fewer than ``n`` bytes follow."""
        if not 0 <= n <= self.left:
            raise CheckpointError(
                "is cut, or damaged", where=self.path, found=f"{self.left:,} bytes from byte {self.at:,} on",
                expected=f"{n:,}",
            )  # fmt: skip

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Return little-endian numbers in the format of ``struct``."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def array(self, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
        """Return the next numbers; they lie in the file until they are used."""
        count = math.prod(map(int, shape))
        self.need(count * dtype.itemsize)
        values = np.frombuffer(self._map, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return values.reshape([int(n) for n in shape])
