"""Vectors that gensim saved: KeyedVectors, or a Word2Vec model that has them, of gensim 1 to 4.

The file is a pickle, which is read without running anything; large arrays lie beside it as .npy files.
"""

from typing import Any

import numpy as np

from firstlight.errors import TokenizerError
from firstlight.files import BoundedReader
from firstlight.files.arrays import read_npy
from firstlight.files.safe_pickle import PickledObject, UnsafePickleError, read_pickle, to_array
from firstlight.vectors.stream import open_vectors
from firstlight.vectors.text import Read

_MATRIX = ("vectors", "syn0")  # gensim 4 and 3, gensim 1


def read_gensim(stream: BoundedReader) -> Read:
    """Read a file of gensim's.

    Raises:
        TokenizerError: it is damaged, holds something else, or names what vectors have no need of.
    """
    path = stream.path
    try:
        saved = read_pickle(stream.read_all())
        inside = "wv." if isinstance(saved, PickledObject) and isinstance(saved.get("wv"), PickledObject) else ""
        holder = saved.get("wv") if inside else saved
        if not isinstance(holder, PickledObject) or not holder.path.startswith("gensim."):
            raise UnsafePickleError("holds no vectors of gensim's")
        words = _words(holder)
        matrix = _matrix(stream, holder, inside)
    except UnsafePickleError as error:
        raise TokenizerError(str(error), where=path, fix="Save the vectors as text or safetensors.") from error
    if len(matrix) < len(words):
        raise TokenizerError("has fewer vectors than words", where=path, found=len(matrix), expected=len(words))
    return words, matrix[: len(words)]


def _words(holder: PickledObject) -> list[str]:
    """Return the words in the order of their rows."""
    listed = holder.get("index_to_key") or holder.get("index2word") or holder.get("index2entity")
    if listed is None:
        table = holder.get("key_to_index") or holder.get("vocab")
        if not isinstance(table, dict):
            raise UnsafePickleError("has no words")
        rows = {word: _row(entry) for word, entry in table.items()}
        listed = sorted(rows, key=lambda word: rows[word])
        if [rows[word] for word in listed] != list(range(len(listed))):
            raise UnsafePickleError("has words without a row of their own")
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        raise UnsafePickleError("has words that are no text")
    return listed


def _row(entry: Any) -> int:
    row = entry.get("index") if isinstance(entry, PickledObject) else entry
    if type(row) is not int:
        raise UnsafePickleError("has words without a row")
    return row


def _matrix(stream: BoundedReader, holder: PickledObject, inside: str) -> np.ndarray:
    """Return the vectors, from the pickle or from the file beside it."""
    matrix = next((found for name in _MATRIX if (found := to_array(holder.get(name))) is not None), None)
    if matrix is None:
        beside = [stream.path.with_name(f"{stream.path.name}.{inside}{name}.npy") for name in _MATRIX]
        file = next((p for p in beside if p.is_file()), None)
        if file is None:
            raise TokenizerError("keeps its vectors in a file that is missing", where=stream.path, expected=beside[0])
        with open_vectors(file) as arrays:
            matrix = read_npy(arrays, kinds="f")
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.shape[1]:
        raise UnsafePickleError(f"has vectors that are no matrix: {matrix.dtype} {matrix.shape}")
    return matrix
