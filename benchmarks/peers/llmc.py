"""llm.c: its train_gpt2.c from a checkout, built as a library with OpenMP, stepped as its main does (not clipped)."""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from shapes import Shape, Ways

_MAGIC, _VERSION = 20240326, 3
_MOST = 1 << 16  # more bytes than its struct GPT2 has


def train(shape: Shape, step: Callable[[], None], ways: Ways) -> None:
    """Take steps from random weights."""
    assert ways.checkout is not None, "--checkout names llm.c's folder"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "llmc.so"
        flags = ["-Ofast", "-march=native", "-fopenmp", "-DOMP", "-DTESTING", "-shared", "-fPIC", "-w"]
        command = ["cc", *flags, str(ways.checkout / "train_gpt2.c"), "-lm", "-o", str(library)]
        subprocess.run(command, check=True, cwd=ways.checkout)
        code = ctypes.CDLL(str(library))
        weights = Path(folder) / "weights.bin"
        _write(weights, shape)
        model = ctypes.create_string_buffer(_MOST)
        code.gpt2_build_from_checkpoint(model, str(weights).encode())
        weights.unlink()
    # Learning rate, betas, epsilon and decay, in the order of gpt2_update.
    numbers = [ctypes.c_float(n) for n in (1e-3, 0.9, 0.999, 1e-8, 0.1)]
    size = [ctypes.c_size_t(n) for n in (shape.batch, shape.block_size)]
    source, count = np.random.default_rng(0), 0
    while True:
        ids = source.integers(shape.n_vocab, size=shape.tokens + 1, dtype=np.int32)
        x, y = (np.ascontiguousarray(part).ctypes.data_as(ctypes.c_void_p) for part in (ids[:-1], ids[1:]))
        code.gpt2_forward(model, x, y, *size)
        code.gpt2_zero_grad(model)
        code.gpt2_backward(model)
        count += 1
        code.gpt2_update(model, *numbers, ctypes.c_int(count))
        step()


def _write(path: Path, shape: Shape) -> None:
    """Write a checkpoint of random numbers in its layout."""
    padded = (shape.n_vocab + 127) // 128 * 128
    header = np.zeros(256, dtype=np.int32)
    header[:8] = [_MAGIC, _VERSION, shape.block_size, shape.n_vocab, shape.n_layer, shape.n_head, shape.n_embd, padded]
    width = shape.n_embd
    n = (padded + shape.block_size) * width + shape.n_layer * (12 * width**2 + 13 * width) + 2 * width
    numbers = np.random.default_rng(0).standard_normal(n, dtype=np.float32) * np.float32(0.02)
    with path.open("wb") as file:
        header.tofile(file)
        numbers.tofile(file)
