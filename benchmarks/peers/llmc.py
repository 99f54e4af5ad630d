"""llm.c: train_gpt2.c of a checkout, built as a library with OpenMP, with the steps of its main (no clipping)."""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from shapes import RunOptions, Shape

_MAGIC, _VERSION = 20240326, 3
_STRUCT_BYTES = 1 << 16  # at least sizeof(GPT2)


def train(shape: Shape, step: Callable[[], None], options: RunOptions) -> None:
    """Train from random weights."""
    assert options.checkout is not None, "pass llm.c's folder as --checkout"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "llmc.so"
        flags = ["-Ofast", "-march=native", "-fopenmp", "-DOMP", "-DTESTING", "-shared", "-fPIC", "-w"]
        command = ["cc", *flags, str(options.checkout / "train_gpt2.c"), "-lm", "-o", str(library)]
        subprocess.run(command, check=True, cwd=options.checkout)
        code = ctypes.CDLL(str(library))
        weights = Path(folder) / "weights.bin"
        _write(weights, shape)
        model = ctypes.create_string_buffer(_STRUCT_BYTES)
        code.gpt2_build_from_checkpoint(model, str(weights).encode())
        weights.unlink()
    # Learning rate, betas, epsilon and decay, in the order of gpt2_update.
    numbers = [ctypes.c_float(n) for n in (1e-3, 0.9, 0.999, 1e-8, 0.1)]
    size = [ctypes.c_size_t(n) for n in (shape.batch, shape.block_size)]
    source, count = np.random.default_rng(0), 0
    while True:
        ids = source.integers(shape.vocab_size, size=shape.tokens + 1, dtype=np.int32)
        x, y = (np.ascontiguousarray(part).ctypes.data_as(ctypes.c_void_p) for part in (ids[:-1], ids[1:]))
        code.gpt2_forward(model, x, y, *size)
        code.gpt2_zero_grad(model)
        code.gpt2_backward(model)
        count += 1
        code.gpt2_update(model, *numbers, ctypes.c_int(count))
        step()


def _write(path: Path, shape: Shape) -> None:
    """Write a checkpoint of random weights in llm.c's format."""
    padded = (shape.vocab_size + 127) // 128 * 128
    header = np.zeros(256, dtype=np.int32)
    header[:8] = [
        _MAGIC,
        _VERSION,
        shape.block_size,
        shape.vocab_size,
        shape.n_layer,
        shape.n_head,
        shape.n_embd,
        padded,
    ]
    width = shape.n_embd
    n = (padded + shape.block_size) * width + shape.n_layer * (12 * width**2 + 13 * width) + 2 * width
    numbers = np.random.default_rng(0).standard_normal(n, dtype=np.float32) * np.float32(0.02)
    with path.open("wb") as file:
        header.tofile(file)
        numbers.tofile(file)
