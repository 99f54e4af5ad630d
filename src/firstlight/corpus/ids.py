"""Sequences of token ids that were made elsewhere: ``.npy`` (1-D, or 2-D with a sequence a row) and raw ``.bin``.

They are read as a stream, never whole. Rows and places are counted from 0, as NumPy does.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from firstlight.corpus.corpus import Corpus, Source
from firstlight.corpus.detect_kind import ARRAY_SUFFIXES, list_files
from firstlight.corpus.raw_source import Raw, files_identity
from firstlight.corpus.settings import CorpusSettings, IdSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, UsageError
from firstlight.files.arrays import iter_chunks, read_array_header
from firstlight.files.compression import estimate_size, inner_suffix, open_compressed
from firstlight.types import Document


def open_ids(names: Sequence[str], settings: IdSettings, reading: CorpusSettings) -> Corpus:
    """Find the files of each name; nothing is read yet.

    Raises:
        UsageError: it is not said how many ids there are.
    """
    if settings.vocab_size is None:
        raise UsageError(
            "is needed for ids",
            where="ids.vocab_size",
            expected="how many there are: one more than the highest",
            fix="Add ids.vocab_size=N",
        )
    return Corpus([Source(_raw(name, settings), reading) for name in names])


def _raw(name: str, settings: IdSettings) -> Raw:
    files = list_files(name, ARRAY_SUFFIXES)

    def read(_settings: CorpusSettings, _tally: Tally) -> Iterator[Document]:
        for path in files:
            yield from read_ids(path, settings)

    def identity() -> str:
        table = {"files": files_identity(files), "ids": settings.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    return Raw(name, read, estimate_size(files), identity)


def read_ids(path: Path, settings: IdSettings) -> Iterator[Document]:
    """Yield a document a row, a long one in pieces.

    Raises:
        CorpusError: the file is damaged, or an id lies outside the vocabulary; names its place.
    """
    assert settings.vocab_size is not None
    if inner_suffix(path) == ".bin":
        yield from _raw_numbers(path, settings)
        return
    with open_compressed(path) as file:
        header = read_array_header(file, path)
        if header.dtype.kind not in "iu" or len(header.shape) not in (1, 2):
            raise CorpusError(
                "holds no ids",
                where=path,
                found=f"{len(header.shape)} axes of type {header.dtype}",
                expected="integers, 1-D, or 2-D with a sequence a row",
            )
        row = header.shape[-1]
        yield from _rows(path, iter_chunks(file, path, header), row if len(header.shape) == 2 else None, settings)


def _raw_numbers(path: Path, settings: IdSettings) -> Iterator[Document]:
    """Read a file without a header, as nanoGPT writes: its length says how many ids it holds."""
    dtype = np.dtype(settings.dtype).newbyteorder("<")
    with open_compressed(path) as file:

        def parts() -> Iterator[np.ndarray]:
            while data := file.read(dtype.itemsize << 20):
                if len(data) % dtype.itemsize:
                    raise CorpusError(
                        f"is no whole number of {dtype.name}", where=path, fix="Set ids.dtype, or write the file again."
                    )
                yield np.frombuffer(data, dtype)

        yield from _rows(path, parts(), None, settings)


def _rows(path: Path, parts: Iterator[np.ndarray], width: int | None, settings: IdSettings) -> Iterator[Document]:
    """Cut a stream of numbers into rows of ``width``, or leave it one row; a row that spans parts goes on in pieces."""
    at, held = 0, None
    for part in parts:
        ids = _checked(part, path, at, width, settings)
        while len(ids):
            room = len(ids) if width is None else width - at % width
            piece, ids = ids[:room], ids[room:]
            if held is not None:
                yield held
            last = width is not None and (at + len(piece)) % width == 0
            source = str(path) if width is None else f"{path}:{at // width}"
            held = Document(piece, source, continues=not last)
            at += len(piece)
    if held is not None:
        yield Document(held.content, held.source)


def _checked(part: np.ndarray, path: Path, at: int, width: int | None, settings: IdSettings) -> np.ndarray:
    """Return ids as int32, none of them outside the vocabulary."""
    V = settings.vocab_size or 0
    if len(part) and (part.min() < 0 or part.max() >= V):
        bad = int(np.flatnonzero((part < 0) | (part >= V))[0])
        place = at + bad
        where = f"place {place}" if width is None else f"row {place // width}, place {place % width}"
        raise CorpusError(
            "holds an id outside the vocabulary",
            where=f"{path}: {where}",
            found=int(part[bad]),
            expected=f"0 to {V - 1}",
            fix="Raise ids.vocab_size, or mend the file.",
        )
    return part.astype(np.int32)
