"""Write word vectors: word2vec's text and binary formats, or an array with its words in a second file."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from firstlight.errors import TokenizerError, UnknownName
from firstlight.files import write_atomic
from firstlight.vectors.readers import VOCAB_SUFFIX
from firstlight.vectors.word_vectors import WordVectors


def write_vectors(vectors: WordVectors, path: Path) -> None:
    """Write vectors atomically, in the format of the file's suffix; ``.gz`` after it compresses the file.

    Raises:
        UnknownName: an unknown suffix.
        TokenizerError: a word with white space, in a format that cannot represent it.
        StorageError: the disk is full or read-only.
    """
    name = path.name.removesuffix(".gz")
    serialize = WRITERS[format_suffix(path)]
    data = serialize(vectors)
    if serialize in (_npy, _safetensors):
        words = "".join(f"{word}\n" for word in vectors.words)
        write_atomic(path.with_name(f"{name.rpartition('.')[0]}{VOCAB_SUFFIX}"), words)
    write_atomic(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


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
