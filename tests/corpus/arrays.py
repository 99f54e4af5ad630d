"""Arrays and pictures on disk, as a user would have them."""

import contextlib
import gzip
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes as an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def mnist(folder: Path, n: int = 60, size: int = 6, *, name: str = "train", seed: int = 0) -> Path:
    """Write images whose class is where their bright half lies, and their labels, under MNIST's names."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, 3, n)
    images = dice.integers(0, 60, (n, size, size))
    for image, label in zip(images, labels, strict=True):
        half = size // 2
        image[(slice(half), slice(half, None), slice(None))[label]] += 150
    path = folder / f"{name}-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(images)))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return path


def png(path: Path, pixels: Any, mode: str | None = None) -> Path:
    """Write a picture; its suffix says in which format."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image if mode is None else image.convert(mode)).save(path)
    return path


@contextlib.contextmanager
def little_memory(megabytes: int) -> Iterator[None]:
    """Check that no more is ever held than so much."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < megabytes << 20
