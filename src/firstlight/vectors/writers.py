"""Write word vectors: word2vec's text and binary formats, or an array with its words in a second file."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from firstlight.errors import TokenizerError, UnknownName
from firstlight.files import check_output, write_output
from firstlight.vectors.readers import VOCAB_SUFFIX
from firstlight.vectors.word_vectors import WordVectors


def write_vectors(vectors: WordVectors, path: Path, *, overwrite: bool = False) -> None:
    """Write vectors atomically, in the format of the file's suffix; ``.gz`` after it compresses the file.

    Raises:
        UnknownName: an unknown suffix.
        UsageError: the file exists, and ``overwrite`` is not set.
        TokenizerError: a word with white space, in a format that cannot represent it.
        StorageError: the disk is full or read-only.
    """
    check_vectors_output(path, overwrite=overwrite)
    data = WRITERS[format_suffix(path)](vectors)
    words_file = _words_file(path)
    if words_file is not None:
        words = "".join(f"{word}\n" for word in vectors.words)
        write_output(words_file, words.encode(), overwrite=overwrite)
    write_output(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data, overwrite=overwrite)


def check_vectors_output(path: Path, *, overwrite: bool = False) -> None:
    """Check that vectors can be written, before they are trained.

    Raises:
        UnknownName: an unknown suffix.
        UsageError: the file, or the one with its words, exists.
    """
    format_suffix(path)
    words_file = _words_file(path)
    for file in (path, *([] if words_file is None else [words_file])):
        check_output(file, overwrite=overwrite)


def _words_file(path: Path) -> Path | None:
    """Return the file of the words, of a format whose own file has only the vectors."""
    if WRITERS[format_suffix(path)] not in (_npy, _safetensors):
        return None
    return path.with_name(f"{path.name.removesuffix('.gz').rpartition('.')[0]}{VOCAB_SUFFIX}")


def format_suffix(path: Path) -> str:
    """Get the suffix that determines a file's format.

    Raises:
        UnknownName: an unknown suffix.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in WRITERS:
        raise UnknownName("format of word vectors", suffix or path.name, WRITERS, where=path)
    return suffix


def _text(vectors: WordVectors) -> bytes:
    lines = [f"{len(vectors)} {vectors.width}"]
    # Nine digits restore every float32 exactly.
    lines += [
        f"{word} {' '.join(f'{x:.9g}' for x in row)}"
        for word, row in zip(_check_words(vectors), vectors.matrix.tolist(), strict=True)
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _binary(vectors: WordVectors) -> bytes:
    rows = [
        word.encode("utf-8") + b" " + row.tobytes() + b"\n"
        for word, row in zip(_check_words(vectors), vectors.matrix.astype("<f4"), strict=True)
    ]
    return f"{len(vectors)} {vectors.width}\n".encode() + b"".join(rows)


def _npy(vectors: WordVectors) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors.matrix, allow_pickle=False)
    return file.getvalue()


def _safetensors(vectors: WordVectors) -> bytes:
    return bytes(save({"vectors": vectors.matrix}))


def _check_words(vectors: WordVectors) -> list[str]:
    bad = next((word for word in vectors.words if not word or word.split() != [word]), None)
    if bad is not None:
        raise TokenizerError(
            "has white space, which this format cannot represent", where=repr(bad), fix="Write .npy or .safetensors."
        )
    return vectors.words


WRITERS: dict[str, Callable[[WordVectors], bytes]] = {
    ".txt": _text,
    ".vec": _text,
    ".bin": _binary,
    ".npy": _npy,
    ".safetensors": _safetensors,
}
