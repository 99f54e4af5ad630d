"""Read sequences of token ids prepared by other programs: ``.npy`` (1-D, or 2-D with a sequence per row), raw ``.bin``.

They are streamed, never read whole. Rows and columns are counted from 0, as in NumPy.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from firstlight.corpus.corpus import Corpus, Source
from firstlight.corpus.detect_kind import ARRAY_SUFFIXES, list_files
from firstlight.corpus.pooling import pool_sources
from firstlight.corpus.raw_source import RawSource, hash_files, read_files
from firstlight.corpus.settings import CorpusSettings, IdSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, UsageError
from firstlight.files.arrays import NPY_MAGIC, is_idx, iter_chunks, read_array_header
from firstlight.files.compression import estimate_size, inner_suffix, open_compressed
from firstlight.files.limits import DEFAULT_LIMITS, Limits
from firstlight.files.raw_ids import SAMPLE_BYTES, other_kind, stored_dtype
from firstlight.types import Document


def open_ids(names: Sequence[str], settings: IdSettings, reading: CorpusSettings, *, separate: bool = False) -> Corpus:
    """Open the files of all names as one source, or those of each name; no id is read yet.

    Raises:
        UsageError: ``vocab_size`` is not set.
    """
    if settings.vocab_size is None:
        raise UsageError(
            "is required for ids",
            where="ids.vocab_size",
            expected="the number of ids: one more than the highest",
            fix="Add ids.vocab_size=N",
        )
    found = [_id_source(name, settings, reading) for name in names]
    return Corpus([Source(raw, reading) for raw in (found if separate else pool_sources(found))])


def _id_source(name: str, settings: IdSettings, reading: CorpusSettings) -> RawSource:
    listed = list_files(name, ARRAY_SUFFIXES, settings=reading)
    return _files_of_ids(settings, name, tuple(listed.files), listed.skipped)


def _files_of_ids(settings: IdSettings, name: str, files: tuple[Path, ...], skipped: Mapping[str, int]) -> RawSource:
    def read(reading: CorpusSettings, tally: Tally) -> Iterator[Document]:
        limits = reading.read_limits
        yield from read_files(files, lambda path: read_ids(path, settings, limits), reading, tally)

    def identity() -> str:
        table = {"files": hash_files(files), "ids": settings.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    of_files = partial(_files_of_ids, settings)
    return RawSource(name, read, estimate_size(files), identity, files, skipped, of_files)


def read_ids(path: Path, settings: IdSettings, limits: Limits = DEFAULT_LIMITS) -> Iterator[Document]:
    """Yield a document per row, a long one in pieces.

    Raises:
        CorpusError: the file is damaged, or an id is outside the vocabulary; names its index.
    """
    assert settings.vocab_size is not None
    if inner_suffix(path) == ".bin":
        yield from _read_raw(path, settings, limits)
        return
    with open_compressed(path, limits=limits) as file:
        start = file.read(8)
    if not start.startswith(NPY_MAGIC) and not is_idx(start):
        raise CorpusError(
            "is not an .npy file, in spite of its name",
            where=path,
            found=f"first bytes {start.hex(' ')}",
            fix="If it holds ids without a header, as OLMo's files do, name it .bin and set ids.dtype.",
        )
    with open_compressed(path, limits=limits) as file:
        header = read_array_header(file, path)
        if header.dtype.kind not in "iu" or len(header.shape) not in (1, 2):
            raise CorpusError(
                "holds no token ids",
                where=path,
                found=f"{len(header.shape)} axes of type {header.dtype}",
                expected="integers, 1-D, or 2-D with a sequence per row",
            )
        row = header.shape[-1]
        yield from _rows(path, iter_chunks(file, path, header), row if len(header.shape) == 2 else None, settings)


def _read_raw(path: Path, settings: IdSettings, limits: Limits) -> Iterator[Document]:
    """Read a file without a header, as nanoGPT writes it."""
    dtype = np.dtype(settings.dtype).newbyteorder("<")
    with open_compressed(path, limits=limits) as file:

        def chunks() -> Iterator[np.ndarray]:
            is_first = True
            while data := file.read(dtype.itemsize << 20):
                if len(data) % dtype.itemsize:
                    raise CorpusError(
                        f"is not a whole number of {dtype.name}",
                        where=path,
                        fix="Set ids.dtype, or write the file again.",
                    )
                if is_first and dtype.itemsize > 1:
                    _check_width(data[:SAMPLE_BYTES], path, dtype, settings.vocab_size or 0)
                is_first = False
                yield np.frombuffer(data, dtype)

        yield from _rows(path, chunks(), None, settings)


def _check_width(sample: bytes, path: Path, dtype: np.dtype, vocab_size: int) -> None:
    """Refuse a file that is clearly not of this type: read as narrower numbers, wide ids would be other valid ids."""
    kind = other_kind(sample)
    if kind is not None:
        raise CorpusError(f"is {kind}, not one of token ids", where=path)
    found = stored_dtype(sample, vocab_size)
    if found is None or np.dtype(found).itemsize == dtype.itemsize and not found.startswith(">"):
        return
    if found.startswith(">"):
        fix = f"Convert it to little endian: numpy.fromfile(PATH, {found!r}).astype({found.replace('>', '<')!r})."
    else:
        fix = f"Set ids.dtype={np.dtype(found).name}, or save the array as .npy, which says its own type."
    raise CorpusError(
        "its ids look like another type",
        where=path,
        found=f"{8 * np.dtype(found).itemsize} bits, {'big' if found.startswith('>') else 'little'} endian",
        expected=f"ids.dtype {dtype.name}, little endian",
        fix=fix,
    )


def _rows(path: Path, chunks: Iterator[np.ndarray], width: int | None, settings: IdSettings) -> Iterator[Document]:
    """Split a stream of ids into rows of ``width`` (None: one row); a row that spans chunks comes in pieces."""
    at, held = 0, None
    for chunk in chunks:
        ids = _check_ids(chunk, path, at, width, settings)
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


def _check_ids(chunk: np.ndarray, path: Path, at: int, width: int | None, settings: IdSettings) -> np.ndarray:
    """Convert ids to int32, checking that they are in the vocabulary."""
    V = settings.vocab_size or 0
    if len(chunk) and (chunk.min() < 0 or chunk.max() >= V):
        bad = int(np.flatnonzero((chunk < 0) | (chunk >= V))[0])
        index = at + bad
        where = f"index {index}" if width is None else f"row {index // width}, column {index % width}"
        raise CorpusError(
            "has an id outside the vocabulary",
            where=f"{path}: {where}",
            found=int(chunk[bad]),
            expected=f"0 to {V - 1}",
            fix="Raise ids.vocab_size, set ids.dtype if it is a .bin file of another type, or fix the file.",
        )
    return chunk.astype(np.int32)
