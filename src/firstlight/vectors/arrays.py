"""Vectors as an array, .npy or safetensors, with the words in a file beside it."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import TokenizerError
from firstlight.files import BoundedReader
from firstlight.files.arrays import read_npy as load_npy
from firstlight.vectors.stream import open_vectors
from firstlight.vectors.text import MOST_WIDE, Read

WORDS = ".vocab"
_BESIDE = (WORDS, ".words", ".txt", ".json")
_NAMES = ("vectors", "embeddings", "embedding", "weight")


def read_npy(stream: BoundedReader) -> Read:
    """Read an .npy file of two dimensions, and its words.

    Raises:
        TokenizerError: it is cut, holds something else, or has another number of rows than there are words.
    """
    matrix = load_npy(stream, kinds="f")
    return _words_beside(stream.path, len(_two(matrix, stream.path))), matrix


def read_safetensors(stream: BoundedReader) -> Read:
    """Read the matrix of a safetensors file, named vectors, embeddings or weight where there are several.

    Raises:
        TokenizerError: it is damaged, or has no such matrix.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    size = stream.read(8, "its beginning")
    (length,) = struct.unpack("<Q", size)
    header = stream.read(length, "its header")
    try:
        table: dict[str, Any] = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in table.items() if name != "__metadata__"]
        tensors = load(size + header + stream.read(max(ends, default=0), "its tensors"))
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
    with open_vectors(found) as stream:
        data = stream.read_all()
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
