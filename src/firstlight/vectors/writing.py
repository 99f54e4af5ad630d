"""Write word vectors: text and binary as word2vec has them, or an array with the words beside it."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from firstlight.errors import TokenizerError, UnknownName
from firstlight.files import write_atomic
from firstlight.vectors.arrays import WORDS
from firstlight.vectors.word_vectors import WordVectors


def write(vectors: WordVectors, path: Path) -> None:
    """Write vectors in the format that the file's suffix means, whole or not at all; ``.gz`` behind it packs them.

    Raises:
        UnknownName: the suffix means no format.
        TokenizerError: a word has white space in it, which a text has no room for.
        StorageError: the disk is full or read-only.
    """
    name = path.name.removesuffix(".gz")
    maker = SUFFIXES.get(suffix_of(path))
    assert maker is not None, "suffix_of refuses others"
    data = maker(vectors)
    if maker in (_npy, _safetensors):
        words = "".join(f"{word}\n" for word in vectors.words)
        write_atomic(path.with_name(f"{name.rpartition('.')[0]}{WORDS}"), words)
    write_atomic(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def suffix_of(path: Path) -> str:
    """Return the suffix that tells a file's format.

    Raises:
        UnknownName: it means none.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise UnknownName("format of word vectors", suffix or path.name, SUFFIXES, where=path)
    return suffix


def _text(vectors: WordVectors) -> bytes:
    lines = [f"{len(vectors)} {vectors.width}"]
    # Nine digits give every float32 back as it was.
    lines += [
        f"{word} {' '.join(f'{x:.9g}' for x in row)}"
        for word, row in zip(_checked(vectors), vectors.matrix.tolist(), strict=True)
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _binary(vectors: WordVectors) -> bytes:
    rows = [
        word.encode("utf-8") + b" " + row.tobytes() + b"\n"
        for word, row in zip(_checked(vectors), vectors.matrix.astype("<f4"), strict=True)
    ]
    return f"{len(vectors)} {vectors.width}\n".encode() + b"".join(rows)


def _npy(vectors: WordVectors) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors.matrix, allow_pickle=False)
    return file.getvalue()


def _safetensors(vectors: WordVectors) -> bytes:
    from safetensors.numpy import save

    return bytes(save({"vectors": vectors.matrix}))


def _checked(vectors: WordVectors) -> list[str]:
    odd = next((word for word in vectors.words if not word or word.split() != [word]), None)
    if odd is not None:
        raise TokenizerError(
            "has white space, which this format has no room for", where=repr(odd), fix="Write .npy or .safetensors."
        )
    return vectors.words


SUFFIXES: dict[str, Callable[[WordVectors], bytes]] = {
    ".txt": _text,
    ".vec": _text,
    ".bin": _binary,
    ".npy": _npy,
    ".safetensors": _safetensors,
}
