"""Open a file of token ids: llm.c's shard, NumPy's ``.npy``, Megatron-LM's pair, or raw ids as in nanoGPT."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight import progress
from firstlight.errors import StoreError, UsageError
from firstlight.files import BoundedReader
from firstlight.files.arrays import NPY_MAGIC, read_npy_header
from firstlight.files.raw_ids import SAMPLE_BYTES, other_kind, stored_dtype
from firstlight.shell import python_command
from firstlight.store.megatron import open_megatron
from firstlight.types import Encoder

DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "int64")
# Of llm.c by its magic number: version, type. The second is that of Llama 3's tokenizer.
_LLMC_KINDS = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
_LLMC_HEADER_BYTES = 1024
_CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of a file.

    Attributes:
        ids: memory-mapped.
        bounds: the offsets at which its documents start, followed by the end of the last.
        path: of the file.
        dtype_known: whether the file itself, or the user, says what type its ids have.
        id_offset: number of ids before the first, in a part of a file.
    """

    ids: np.ndarray
    bounds: np.ndarray
    path: Path
    dtype_known: bool = True
    id_offset: int = 0

    def part(self, first: int, last: int) -> "Tokens":
        """Return documents ``first`` to ``last``, without the last."""
        start, end = int(self.bounds[first]), int(self.bounds[last])
        bounds = self.bounds[first : last + 1] - start
        return Tokens(self.ids[start:end], bounds, self.path, self.dtype_known, self.id_offset + start)

    def cut(self, at: int) -> "tuple[Tokens, Tokens]":
        """Cut the only document in two."""
        parts = [(self.ids[:at], 0), (self.ids[at:], at)]
        first, second = (
            Tokens(ids, np.array([0, len(ids)]), self.path, self.dtype_known, self.id_offset + start)
            for ids, start in parts
        )
        return first, second


def open_tokens(path: Path, encoder: Encoder, dtype: str | None, default: str | None = None) -> Tokens:
    """Open a file; raw ids are split into documents after each end-of-text.

    Args:
        path: of the file.
        encoder: the tokenizer that the ids are from.
        dtype: type of raw ids, one of ``DTYPES``; by default that of the tokenizer's number of ids.
        default: type of raw ids in a file that is too short to show it.

    Raises:
        StoreError: the file is damaged, or of another kind or type.
    """
    if path.with_suffix(".idx").is_file():
        return Tokens(*open_megatron(path.with_suffix("")), path)
    file = BoundedReader(path, StoreError)
    start = file.read_up_to(SAMPLE_BYTES)
    file.offset = 0
    magic, version = (int.from_bytes(start[i : i + 4], "little") for i in (0, 4))
    known = True
    if magic in _LLMC_KINDS:
        ids = _read_llmc(file, version, *_LLMC_KINDS[magic])
    elif start.startswith(NPY_MAGIC):
        ids = _read_npy(file)
    else:
        chosen = _choose_dtype(path, start, encoder.vocab_size, dtype, default)
        if file.remaining % chosen.itemsize:
            raise StoreError(
                f"not a whole number of ids of type {chosen.name}", where=path, found=f"{file.size:,} bytes"
            )
        ids, known = file.read_array(chosen, (file.remaining // chosen.itemsize,)), dtype is not None
    eot = encoder.eot_id
    ends = [np.flatnonzero(ids[i : i + _CHUNK_TOKENS] == eot) + i + 1 for i in range(0, len(ids), _CHUNK_TOKENS)]
    return Tokens(ids, np.unique(np.concatenate([[0], *ends, [len(ids)]])), path, known)


def _read_llmc(file: BoundedReader, version: int, expected_version: int, dtype: str) -> np.ndarray:
    if version != expected_version:
        raise StoreError(
            "unsupported version of llm.c's shards", where=file.path, found=version, expected=expected_version
        )
    file.require(_LLMC_HEADER_BYTES, "llm.c's header")
    _, _, count = file.unpack("3I")
    file.offset, kind = _LLMC_HEADER_BYTES, np.dtype(dtype)
    if file.remaining != kind.itemsize * count:
        raise StoreError(
            "its size does not match its header",
            where=file.path,
            found=f"{file.remaining:,} bytes",
            expected=f"{kind.itemsize * count:,}, for {count:,} ids of type {kind.name}",
        )
    return file.read_array(kind, (count,))


def _read_npy(file: BoundedReader) -> np.ndarray:
    header = read_npy_header(file, file.path, file.read(8), kinds="iu", error=StoreError)
    if len(header.shape) != 1:
        raise StoreError("is not a sequence of ids", where=file.path, found=str(header), expected="one axis")
    if file.remaining != header.size * header.dtype.itemsize:
        raise StoreError(
            "its size does not match its header",
            where=file.path,
            found=f"{file.remaining:,} bytes",
            expected=f"{header.size * header.dtype.itemsize:,}, for {header}",
        )
    return file.read_array(header.dtype, header.shape)


def common_dtype(paths: Iterable[Path], vocab_size: int) -> str | None:
    """Return the type of raw ids that files show, as of ``stored_dtype``; None where it is not the same in all."""
    shown = set()
    for path in paths:
        start = BoundedReader(path, StoreError).read_up_to(SAMPLE_BYTES)
        has_header = start.startswith(NPY_MAGIC) or int.from_bytes(start[:4], "little") in _LLMC_KINDS
        if not has_header and not path.with_suffix(".idx").is_file() and other_kind(start) is None:
            shown.add(stored_dtype(start, vocab_size))
    shown.discard(None)
    return next(iter(shown)) if len(shown) == 1 else None


def _choose_dtype(path: Path, start: bytes, vocab_size: int, dtype: str | None, default: str | None) -> np.dtype:
    """Choose the type of raw ids: as set, or uint16 where every id fits, else uint32, unless the file shows another.

    Raises:
        StoreError: it is another kind of file, or looks like another type that the tokenizer does not explain.
    """
    if dtype is not None:
        shown = stored_dtype(start, vocab_size)
        if shown is not None and dtype != "uint8" and np.dtype(shown).itemsize != np.dtype(dtype).itemsize:
            progress.warn(f"{path}: read as {dtype}, as set, but its ids look like {np.dtype(shown).name}")
        if dtype == "uint8" and vocab_size > 1 << 8:
            progress.warn(f"{path}: read as uint8, as set, which has 256 ids: the tokenizer has {vocab_size:,}")
        return np.dtype(dtype).newbyteorder("<")
    kind = other_kind(start)
    if kind is not None:
        raise StoreError(f"is {kind}, not one of token ids", where=path)
    expected = "<u2" if vocab_size <= 1 << 16 else "<u4"
    found = stored_dtype(start, vocab_size) or default or expected
    if found.startswith(">"):
        little = found.replace(">", "<")
        old = str(path.with_name(f"{path.name}.big-endian"))  # kept
        code = (
            f"import numpy, os; os.rename({str(path)!r}, {old!r}); "
            f"numpy.fromfile({old!r}, {found!r}).astype({little!r}).tofile({str(path)!r})"
        )
        raise StoreError(
            "its ids are big endian",
            where=path,
            expected="little endian",
            fix=f"Convert it: {python_command(code)}",
        )
    if np.dtype(found).itemsize < np.dtype(expected).itemsize:
        raise StoreError(
            f"its ids look like 16 bits, but the {vocab_size:,} ids of the tokenizer need 32",
            where=path,
            fix="Specify the tokenizer that the ids are from, or --dtype uint16 if it is the right one.",
        )
    if found != expected:
        progress.notice(f"{path}: read as {np.dtype(found).name}, since the upper half of its ids is 0")
    return np.dtype(found)


def check_dtype(dtype: str | None) -> None:
    """Raise UsageError for a type of ids that is not one of ``DTYPES``."""
    if dtype is not None and dtype not in DTYPES:
        raise UsageError("unknown type of token ids", where="--dtype", found=dtype, expected=", ".join(DTYPES))


def check_ids(tokens: Tokens, first: int, chunk: np.ndarray, vocab_size: int) -> None:
    """Check that ids are those of the tokenizer.

    Args:
        tokens: the file.
        first: number of ids before the chunk.
        chunk: some of its ids.
        vocab_size: number of the tokenizer's ids.

    Raises:
        StoreError: one is not; names its offset.
    """
    if not len(chunk) or (int(chunk.min()) >= 0 and int(chunk.max()) < vocab_size):
        return
    at = int(np.flatnonzero((chunk < 0) | (chunk >= vocab_size))[0])
    fix = "Specify the tokenizer that the ids are from."
    if not tokens.dtype_known:
        fix = f"Specify the tokenizer that the ids are from, or their type if it is not {chunk.dtype.name}: --dtype."
    raise StoreError(
        "contains ids that the tokenizer does not have",
        where=f"{tokens.path}: token {tokens.id_offset + first + at:,}",
        found=int(chunk[at]),
        expected=f"0 to {vocab_size - 1}",
        fix=fix,
    )
