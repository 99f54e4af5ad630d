"""Corpora of ids and of images, small enough to train on in a test, and settings for that."""

import gzip
import struct
from pathlib import Path

import numpy as np

SMALL = [
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=16",
    "train.batch_tokens=256",
    "train.steps=6",
    "train.eval_every=3",
    "train.checkpoint_every=3",
    "train.log_every=1",
    "train.sample_every=3",
    "train.trackers=[]",
    "hardware.threads=1",
]


def write_ids(path: Path, n: int = 4000, vocab_size: int = 12) -> Path:
    """Write a walk over the ids, which a model can learn."""
    steps = np.random.default_rng(0).integers(0, 2, n)
    np.save(path, np.cumsum(steps) % vocab_size)
    return path


def write_mnist(folder: Path, n: int = 80, size: int = 6, *, name: str = "train", seed: int = 0) -> Path:
    """Write images whose class is where their bright half lies, and their labels, as MNIST has them."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(seed)
    labels, images = dice.integers(0, 3, n), dice.integers(0, 60, (n, size, size))
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        image[(slice(half), slice(half, None), slice(None))[label]] += 150
    path = folder / f"{name}-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(_idx(images)))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(labels)))
    return path


def write_pets(folder: Path, n: int = 30) -> Path:
    """Write coloured pictures of two classes in a folder each."""
    from PIL import Image

    dice = np.random.default_rng(0)
    for i in range(n):
        name, color = (("cats", (200, 40, 40)), ("dogs", (40, 40, 200)))[i % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = np.clip(np.array(color) + dice.integers(-30, 30, (10, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
