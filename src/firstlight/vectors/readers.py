"""Read word vectors: word2vec and GloVe formats, .npy and safetensors arrays, gensim's files.

Arrays have their words in a second file with the same name. gensim's files (KeyedVectors or a Word2Vec model, gensim 1
to 4) are pickles, which are parsed without executing anything; large arrays are in .npy files with the same name.
"""

import json
import re
import struct
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import BoundedReader, storage_errors
from firstlight.files.arrays import NPY_MAGIC, read_npy
from firstlight.files.safe_pickle import PickledObject, UnsafePickleError, read_pickle, to_array
from firstlight.vectors.word2vec_format import (
    MAX_WIDTH,
    OnBadBytes,
    WordsAndMatrix,
    is_binary,
    read_binary,
    read_text,
)
from firstlight.vectors.word_vectors import WordVectors

VOCAB_SUFFIX = ".vocab"
_VOCAB_SUFFIXES = (VOCAB_SUFFIX, ".words", ".txt", ".json")
_WORD_AND_COUNT = re.compile(r"([^ \t]+)[ \t]+[0-9]+[ \t]*")
_TENSOR_NAMES = ("vectors", "embeddings", "embedding", "weight")
_GENSIM_MATRICES = ("vectors", "syn0")  # gensim 4 and 3, gensim 1
_HEAD_BYTES = 4096
_PICKLE_MAGICS = tuple(bytes((0x80, version)) for version in range(2, 6))
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\xff\xfe": "in UTF-16",
    b"\xfe\xff": "in UTF-16",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"PAR1": "a Parquet file",
}
_OTHER_KINDS_FIX = "Unpack or convert it: to text in UTF-8, word2vec's .bin, .npy or .safetensors; each may be gzipped."
_FASTTEXT_MAGIC = b"\xba\x16\x4f\x2f"


def read_vectors(
    path: str | Path, keep: Container[str] | None = None, *, on_bad_bytes: OnBadBytes = "error"
) -> WordVectors:
    """Read word vectors: GloVe or word2vec text, word2vec binary, gensim, .npy or safetensors; each also gzipped.

    Args:
        path: the file.
        keep: the words to read, all if None; others cost no memory.
        on_bad_bytes: what is done about words in word2vec's formats that are not UTF-8, such as those that word2vec
            cuts within a letter: raise, replace the bytes by U+FFFD, or leave the bytes out. They are counted.

    Raises:
        TokenizerError: an unreadable or damaged file; names the line or the byte.
    """
    path = Path(path)
    if not path.is_file():
        raise TokenizerError("no such file", where=path, fix="Specify a file of word vectors.")
    with open_vectors(path) as file:
        start = file.read_up_to(_HEAD_BYTES)
    if not start:
        raise TokenizerError("is empty", where=path)
    with open_vectors(path) as file:
        words, matrix = _read_format(file, start, keep, on_bad_bytes)
    return _validate(words, matrix, path, keep)


def check_vectors(path: Path) -> None:
    """Check by its first bytes that a file may hold word vectors, before work that takes long.

    Raises:
        TokenizerError: it holds something else.
    """
    with open_vectors(path) as file:
        start = file.read_up_to(_HEAD_BYTES)
    name = path.name.removesuffix(".gz")
    _refuse_other(start, path)
    if start.startswith((NPY_MAGIC, *_PICKLE_MAGICS)) or name.endswith(".safetensors") or is_binary(start, name):
        return
    line = start.lstrip().partition(b"\n")[0]
    try:
        float((line.split() or [b""])[-1])
    except ValueError as error:
        if len(line) == len(start):  # a line longer than what was read
            return
        raise TokenizerError(
            "is not a file of word vectors",
            where=f"{path}:1",
            found=line[:60].decode("utf-8", "replace"),
            expected="a word and its numbers in each line",
        ) from error


def _refuse_other(start: bytes, path: Path) -> None:
    """Refuse the first bytes of other kinds of files."""
    if start.startswith(_FASTTEXT_MAGIC):
        raise TokenizerError("fastText's binary format is not supported", where=path, fix="Use its .vec file.")
    other = next((kind for magic, kind in _OTHER_KINDS.items() if start.startswith(magic)), None)
    if other is not None:
        raise TokenizerError(f"is {other}, not a file of word vectors", where=path, fix=_OTHER_KINDS_FIX)


@contextmanager
def open_vectors(path: Path) -> Iterator[BoundedReader]:
    """Open a file, plain or gzipped, for reading from front to back with a progress bar.

    Raises:
        TokenizerError: it cannot be opened.
        StorageError: no permission, or a disk error.
    """
    size = None
    # Other errors are reported by the reader.
    with suppress(OSError), storage_errors(path), path.open("rb"):
        size = path.stat().st_size
    with (
        progress.task("vectors", size, "B") as task,
        BoundedReader(path, TokenizerError, decompress=True, on_read=task.advance) as reader,
    ):
        yield reader


def _read_format(
    file: BoundedReader, start: bytes, keep: Container[str] | None, on_bad_bytes: OnBadBytes
) -> WordsAndMatrix:
    """Detect the format by the first bytes, or by the name where they are ambiguous."""
    name = file.path.name.removesuffix(".gz")
    if start.startswith(NPY_MAGIC):
        matrix = read_npy(file, kinds="f")
        return _read_vocab(file.path, len(_check_matrix(matrix, file.path))), matrix
    if name.endswith(".safetensors"):
        return _read_safetensors(file)
    if start.startswith(_PICKLE_MAGICS):
        return _read_gensim(file)
    _refuse_other(start, file.path)
    read = read_binary if is_binary(start, name) else read_text
    return read(file, keep, on_bad_bytes)


def _validate(words: list[str], matrix: np.ndarray, path: Path, keep: Container[str] | None) -> WordVectors:
    """Drop duplicate words and those that are not in ``keep``; raise for non-finite numbers."""
    rows: dict[str, int] = {}
    for row, word in enumerate(words):
        if keep is None or word in keep:
            rows.setdefault(word, row)
    if keep is None and len(rows) < len(words):
        progress.notice(f"{path}: {len(words) - len(rows):,} duplicate words: keeping the first vector of each")
    selected = matrix if len(rows) == len(words) else matrix[list(rows.values())]
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(selected, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise TokenizerError("has numbers that are not finite", where=path, found=f"in {list(rows)[bad[0]]!r}")
    return WordVectors(list(rows), vectors, path)


def _read_safetensors(file: BoundedReader) -> WordsAndMatrix:
    """Read the only matrix of a safetensors file, or the one named vectors, embeddings or weight."""
    import torch  # takes seconds to load; the other formats do without it
    from safetensors import SafetensorError
    from safetensors.torch import load

    size = file.read(8, "its header")
    (length,) = struct.unpack("<Q", size)
    header = file.read(length, "its header")
    try:
        table: dict[str, Any] = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in table.items() if name != "__metadata__"]
        tensors = load(size + header + file.read(max(ends, default=0), "its tensors"))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise TokenizerError(f"is not a readable safetensors file: {reason}", where=file.path) from error
    matrices = {name: t for name, t in tensors.items() if t.ndim == 2 and t.is_floating_point()}
    name = next(iter(matrices)) if len(matrices) == 1 else next((n for n in _TENSOR_NAMES if n in matrices), None)
    if name is None:
        raise TokenizerError(
            "has no matrix of word vectors",
            where=file.path,
            found=", ".join(list(tensors)[:4]) or "no tensors",
            expected=f"a single matrix, or one named {', '.join(_TENSOR_NAMES)}",
        )
    matrix = matrices[name].to(torch.float32).numpy()
    return _read_vocab(file.path, len(_check_matrix(matrix, file.path))), matrix


def _check_matrix(matrix: np.ndarray, path: Path) -> np.ndarray:
    if matrix.ndim != 2 or not 1 <= matrix.shape[1] <= MAX_WIDTH:
        raise TokenizerError(
            "is not a matrix of word vectors", where=path, found=f"shape {matrix.shape}", expected="(words, width)"
        )
    return matrix


def _read_vocab(path: Path, n_rows: int) -> list[str]:
    """Read the words of an array's rows from the vocabulary file with the same name."""
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    names = [f"{stem}{suffix}" for suffix in _VOCAB_SUFFIXES]
    candidates = [path.with_name(name + end) for name in names for end in ("", ".gz")]
    vocab_path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if vocab_path is None:
        raise TokenizerError(
            "has no vocabulary file", where=path, expected=f"one of {', '.join(names)}, with one word per line"
        )
    with open_vectors(vocab_path) as file:
        data = file.read_all()
    try:
        text = data.decode("utf-8-sig")
        is_json = vocab_path.name.removesuffix(".gz").endswith(".json")
        words = _parse_json_vocab(json.loads(text), vocab_path) if is_json else None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"cannot be read: {error}", where=vocab_path) from error
    if words is None:
        words = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
        counted = [_WORD_AND_COUNT.fullmatch(word) for word in words]
        if words and all(counted):  # as word2vec and GloVe write vocabularies
            progress.notice(f"{vocab_path}: a number follows each word, and is left out")
            words = [found[1] for found in counted if found]
    if len(words) != n_rows:
        raise TokenizerError(
            "the number of words differs from the rows of its array",
            where=vocab_path,
            found=f"{len(words):,}",
            expected=f"{n_rows:,}",
        )
    return words


def _parse_json_vocab(value: Any, path: Path) -> list[str]:
    """Parse a JSON vocabulary: a list of words, or an object from word to row."""
    if isinstance(value, dict):
        rows = list(value.values())
        if all(isinstance(row, int) for row in rows) and sorted(rows) == list(range(len(rows))):
            return sorted(value, key=lambda word: int(value[word]))
    elif isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    raise TokenizerError("is not a vocabulary", where=path, expected="a list of words, or an object from word to row")


def _read_gensim(file: BoundedReader) -> WordsAndMatrix:
    """Read gensim's KeyedVectors, or those of a Word2Vec model."""
    path = file.path
    try:
        saved = read_pickle(file.read_all())
        prefix = "wv." if isinstance(saved, PickledObject) and isinstance(saved.get("wv"), PickledObject) else ""
        keyed_vectors = saved.get("wv") if prefix else saved
        if not isinstance(keyed_vectors, PickledObject) or not keyed_vectors.path.startswith("gensim."):
            raise UnsafePickleError("has no gensim KeyedVectors")
        words = _gensim_words(keyed_vectors)
        matrix = _gensim_matrix(path, keyed_vectors, prefix)
    except UnsafePickleError as error:
        raise TokenizerError(str(error), where=path, fix="Save the vectors as text or safetensors.") from error
    if len(matrix) < len(words):
        raise TokenizerError("has fewer vectors than words", where=path, found=len(matrix), expected=len(words))
    return words, matrix[: len(words)]


def _gensim_words(keyed_vectors: PickledObject) -> list[str]:
    """List the words in the order of their rows."""
    words = keyed_vectors.get("index_to_key") or keyed_vectors.get("index2word") or keyed_vectors.get("index2entity")
    if words is None:
        table = keyed_vectors.get("key_to_index") or keyed_vectors.get("vocab")
        if not isinstance(table, dict):
            raise UnsafePickleError("has no words")
        rows = {word: _gensim_row(entry) for word, entry in table.items()}
        words = sorted(rows, key=lambda word: rows[word])
        if [rows[word] for word in words] != list(range(len(words))):
            raise UnsafePickleError("has words whose rows are not 0, 1, 2, …")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UnsafePickleError("has words that are not strings")
    return words


def _gensim_row(entry: Any) -> int:
    row = entry.get("index") if isinstance(entry, PickledObject) else entry
    if type(row) is not int:
        raise UnsafePickleError("has words without a row")
    return row


def _gensim_matrix(path: Path, keyed_vectors: PickledObject, prefix: str) -> np.ndarray:
    """Read the vectors from the pickle, or from the .npy file with its name."""
    arrays = (to_array(keyed_vectors.get(name)) for name in _GENSIM_MATRICES)
    matrix = next((array for array in arrays if array is not None), None)
    if matrix is None:
        candidates = [path.with_name(f"{path.name}.{prefix}{name}.npy") for name in _GENSIM_MATRICES]
        npy_path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if npy_path is None:
            raise TokenizerError("the file of its vectors is missing", where=path, expected=candidates[0])
        with open_vectors(npy_path) as file:
            matrix = read_npy(file, kinds="f")
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.shape[1]:
        raise UnsafePickleError(f"its vectors are not a matrix: {matrix.dtype} {matrix.shape}")
    return matrix
