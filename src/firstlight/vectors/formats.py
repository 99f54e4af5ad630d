"""Which of the formats a file has, by its content first and its name where that does not tell."""

from collections.abc import Container
from pathlib import Path

import numpy as np

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import BoundedReader
from firstlight.files.arrays import NPY_MAGIC
from firstlight.vectors.arrays import read_npy, read_safetensors
from firstlight.vectors.binary import is_binary, read_binary
from firstlight.vectors.stream import open_vectors
from firstlight.vectors.text import Read, read_text
from firstlight.vectors.word_vectors import WordVectors

_HEAD = 4096
_PICKLES = tuple(bytes((0x80, version)) for version in range(2, 6))
_FASTTEXT = b"\xba\x16\x4f\x2f"


def read(path: str | Path, wanted: Container[str] | None = None) -> WordVectors:
    """Read word vectors: GloVe or word2vec text, word2vec binary, gensim, .npy or safetensors; each also gzipped.

    Args:
        path: the file; that of an array has its words in another file beside it.
        wanted: the words that are kept, all where None; others cost neither memory nor, mostly, time.

    Raises:
        TokenizerError: it cannot be read, is cut or damaged; names the line or the byte.
    """
    path = Path(path)
    if not path.is_file():
        raise TokenizerError("no such file", where=path, fix="Give a file of word vectors.")
    with open_vectors(path) as stream:
        head = stream.read_up_to(_HEAD)
    if not head:
        raise TokenizerError("is empty", where=path)
    with open_vectors(path) as stream:
        words, matrix = _read_as(stream, head, wanted)
    return _clean(words, matrix, path, wanted)


def _read_as(stream: BoundedReader, head: bytes, wanted: Container[str] | None) -> Read:
    name = stream.path.name.removesuffix(".gz")
    if head.startswith(NPY_MAGIC):
        return read_npy(stream)
    if name.endswith(".safetensors"):
        return read_safetensors(stream)
    if head.startswith(_PICKLES):
        from firstlight.vectors.gensim_files import read_gensim

        return read_gensim(stream)
    if head.startswith(_FASTTEXT):
        raise TokenizerError("is fastText's own binary form", where=stream.path, fix="Take its .vec file.")
    return read_binary(stream, wanted) if is_binary(head) else read_text(stream, wanted)


def _clean(words: list[str], matrix: np.ndarray, path: Path, wanted: Container[str] | None) -> WordVectors:
    """Leave out words that stand there twice, or that nobody wants; refuse numbers that are none."""
    rows: dict[str, int] = {}
    for row, word in enumerate(words):
        if wanted is None or word in wanted:
            rows.setdefault(word, row)
    if wanted is None and len(rows) < len(words):
        progress.notice(f"{path}: {len(words) - len(rows):,} words stand there twice: the first vector counts")
    kept = matrix if len(rows) == len(words) else matrix[list(rows.values())]
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(kept, dtype=np.float32)
    odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(odd):
        raise TokenizerError("has numbers that are not finite", where=path, found=f"in {list(rows)[odd[0]]!r}")
    return WordVectors(list(rows), vectors, path)
