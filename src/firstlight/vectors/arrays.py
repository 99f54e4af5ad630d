"""Vectors as an array, .npy or safetensors, with the words in a file beside it."""

import ast
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import TokenizerError
from firstlight.vectors.stream import Stream
from firstlight.vectors.text import MOST_WIDE, Read

NPY = b"\x93NUMPY"
WORDS = ".vocab"
_BESIDE = (WORDS, ".words", ".txt", ".json")
_MOST_HEADER = 1 << 16
_NAMES = ("vectors", "embeddings", "embedding", "weight")


def read_npy(stream: Stream) -> Read:
    """Read an .npy file of two dimensions, and its words.

    Raises:
        TokenizerError: it is cut, holds something else, or has another number of rows than there are words.
    """
    matrix = npy_array(stream)
    return _words_beside(stream.path, len(_two(matrix, stream.path))), matrix


def npy_array(stream: Stream) -> np.ndarray:
    """Return the floating-point array of an .npy file; one of Python objects, which would run code, is refused."""
    head = stream.take(8, "its beginning")
    if head[:6] != NPY or head[6] not in (1, 2):
        stream.refuse("is no .npy file of version 1 or 2")
    form = "<H" if head[6] == 1 else "<I"
    (length,) = struct.unpack(form, stream.take(struct.calcsize(form)))
    if length > _MOST_HEADER:
        stream.refuse("has an absurd header", found=f"{length:,} bytes")
    dtype, turned, shape = _npy_header(stream, stream.take(length, "its header"))
    data = stream.take(math.prod(shape) * dtype.itemsize, f"{' × '.join(map(str, shape))} numbers")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if turned else "C")


def _npy_header(stream: Stream, header: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """Return number type, order and shape. NumPy's own reader would try to mend a header that is damaged."""
    if b"\\" in header:  # Python would warn of what it takes for an escape
        stream.refuse("has a header that cannot be read")
    try:
        table = ast.literal_eval(header.decode("latin-1").strip())
        form, turned, shape = table["descr"], table["fortran_order"], table["shape"]
        sizes = tuple(int(n) for n in shape if type(n) is int and n >= 0)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        stream.refuse(f"has a header that cannot be read: {' '.join(str(error).split())[:100]}")
    if not isinstance(form, str) or re.fullmatch(r"[<>=]?f[248]", form) is None:
        stream.refuse("holds no floating-point numbers", found=repr(form)[:40])
    if len(sizes) != len(shape) or not isinstance(turned, bool):
        stream.refuse("has an absurd shape", found=repr(shape)[:40])
    return np.dtype(form), turned, sizes


def read_safetensors(stream: Stream) -> Read:
    """Read the matrix of a safetensors file, named vectors, embeddings or weight where there are several.

    Raises:
        TokenizerError: it is damaged, or has no such matrix.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    size = stream.take(8, "its beginning")
    (length,) = struct.unpack("<Q", size)
    header = stream.take(length, "its header")
    try:
        table: dict[str, Any] = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in table.items() if name != "__metadata__"]
        tensors = load(size + header + stream.take(max(ends, default=0), "its tensors"))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise TokenizerError(f"is no readable safetensors file: {reason}", where=stream.path) from error
    matrices = {name: t for name, t in tensors.items() if t.ndim == 2 and t.is_floating_point()}
    name = next(iter(matrices)) if len(matrices) == 1 else next((n for n in _NAMES if n in matrices), None)
    if name is None:
        raise TokenizerError(
            "has no matrix of vectors",
            where=stream.path,
            found=", ".join(list(tensors)[:4]) or "nothing",
            expected="one, or one named " + ", ".join(_NAMES),
        )
    matrix = matrices[name].to(torch.float32).numpy()
    return _words_beside(stream.path, len(_two(matrix, stream.path))), matrix


def _two(matrix: np.ndarray, path: Path) -> np.ndarray:
    if matrix.ndim != 2 or not 1 <= matrix.shape[1] <= MOST_WIDE:
        raise TokenizerError(
            "holds no matrix of vectors", where=path, found=f"shape {matrix.shape}", expected="(words, width)"
        )
    return matrix


def _words_beside(path: Path, n: int) -> list[str]:
    """Return the words of an array's rows, from the file of its name that is a list of words."""
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    names = [f"{stem}{suffix}" for suffix in _BESIDE]
    found = next(
        (path.with_name(name + end) for name in names for end in ("", ".gz") if path.with_name(name + end).is_file()),
        None,
    )
    if found is None:
        raise TokenizerError(
            "has no vocabulary beside it", where=path, expected=f"one of {', '.join(names)}: a word a line"
        )
    with Stream(found) as stream:
        data = stream.rest()
    try:
        text = data.decode("utf-8-sig")
        words = _listed(json.loads(text), found) if found.name.removesuffix(".gz").endswith(".json") else None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"cannot be read: {error}", where=found) from error
    if words is None:
        words = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if len(words) != n:
        raise TokenizerError(
            "has another number of words than its array has rows",
            where=found,
            found=f"{len(words):,}",
            expected=f"{n:,}",
        )
    return words


def _listed(table: Any, path: Path) -> list[str]:
    """Return the words of a JSON file: a list of them, or an object with each one's row."""
    if isinstance(table, dict):
        rows = list(table.values())
        if all(isinstance(row, int) for row in rows) and sorted(rows) == list(range(len(rows))):
            return sorted(table, key=lambda word: int(table[word]))
    elif isinstance(table, list) and all(isinstance(word, str) for word in table):
        return table
    raise TokenizerError("is no list of words, nor an object with the row of each", where=path)
