"""Open files that may be compressed (.gz, .bz2, .xz, .zst) as streams of bytes; damage is not mistaken for the end."""

import bz2
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from firstlight.errors import CorpusError, Failure, MissingExtra
from firstlight.files.atomic import storage_errors
from firstlight.files.limits import DEFAULT_LIMITS, LimitedStream, Limits, open_regular

COMPRESSED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}  # suffixes, with the program of each
_BLOCK_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 17
_SAMPLE_BYTES = 1 << 18
_SMALL_BYTES = 1 << 16
_SAMPLED_FILES = 8
_MIN_READ_BYTES = 128


def inner_suffix(path: Path) -> str:
    """Return the suffix without that of the compression, in lower case: ``.txt`` of ``a.TXT.gz``."""
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return inner.suffix.lower()


@contextmanager
def open_compressed(
    path: Path, *, limits: Limits = DEFAULT_LIMITS, error: type[Failure] = CorpusError
) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed as its suffix says, within the limits of memory and compression ratio.

    Raises:
        Failure: of the class ``error``: it is missing, not readable, not a regular file, expands too far, or its
            compressed data is damaged or truncated.
        MissingExtra: zstandard is not installed.
    """
    try:
        with open_regular(path, error=error) as file, _decompress(path, file, limits) as decompressed:
            is_plain = path.suffix.lower() not in COMPRESSED
            yield (
                file
                if is_plain
                else io.BufferedReader(LimitedStream(decompressed, file, path, limits, error), _BUFFER_BYTES)
            )
    except _damage_errors() as refused:
        raise _damaged(path, refused, limits, error) from refused
    except OSError as refused:
        # bz2 raises OSError, without a number, where the others have an error of their own.
        if refused.errno is None and path.suffix.lower() in COMPRESSED:
            raise _damaged(path, refused, limits, error) from refused
        raise error(f"cannot be read: {refused.strerror or refused}", where=path) from refused


@contextmanager
def open_seekable(
    path: Path, *, limits: Limits = DEFAULT_LIMITS, error: type[Failure] = CorpusError
) -> Iterator[BinaryIO]:
    """Open a file for random access; a compressed one is first decompressed to a temporary file.

    Raises:
        Failure: as ``open_compressed``.
        StorageError: no space for the temporary file.
    """
    with open_compressed(path, limits=limits, error=error) as file:
        if path.suffix.lower() not in COMPRESSED:
            yield file
            return
        with storage_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile(prefix="firstlight-") as temporary:
            shutil.copyfileobj(file, temporary, _BLOCK_BYTES)
            temporary.seek(0)
            yield cast(BinaryIO, temporary)


def estimate_size(files: Sequence[Path]) -> int:
    """Estimate the decompressed bytes of some files from their sizes and the start of the first compressed ones."""
    plain = sum(p.stat().st_size for p in files if p.suffix.lower() not in COMPRESSED)
    packed = [p for p in files if p.suffix.lower() in COMPRESSED]
    if not packed:
        return plain
    n_read = n_decompressed = 0
    for path in packed[:_SAMPLED_FILES]:
        try:
            used, given = _sample(path)
        except (OSError, MissingExtra):
            continue
        except _damage_errors():
            continue  # reported when the file is read
        n_read, n_decompressed = n_read + used, n_decompressed + given
    return plain + round(sum(p.stat().st_size for p in packed) * (n_decompressed / n_read if n_read else 1.0))


def _sample(path: Path) -> tuple[int, int]:
    """Decompress the start of a file; return the bytes read and the bytes that they became."""
    n_decompressed, block = 0, b""
    with open_regular(path) as file, _decompress(path, file, DEFAULT_LIMITS) as decompressed:
        while n_decompressed < _SAMPLE_BYTES and (block := decompressed.read(_SMALL_BYTES)):
            n_decompressed += len(block)
        # And all else that comes from the bytes read so far: a block of bz2 gives 900 kB.
        used = file.tell()
        while file.tell() == used and (block := decompressed.read(_SMALL_BYTES)):
            n_decompressed += len(block)
    return used if block else path.stat().st_size, n_decompressed


def _damaged(path: Path, refused: Exception, limits: Limits, error: type[Failure]) -> Failure:
    if "memory" in str(refused).lower():  # as lzma and zstandard say where the window is too large
        return error(
            "needs too much memory to decompress",
            where=path,
            expected=f"at most {limits.max_document_bytes:,} bytes",
            fix=limits.fix("max_document_bytes"),
        )
    return error(f"is damaged or truncated: {refused}", where=path, fix="Fetch or compress it again.")


def _decompress(path: Path, file: BinaryIO, limits: Limits) -> BinaryIO:
    """Return a stream of the decompressed bytes; closing it leaves ``file`` open."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(file))
    if suffix == ".xz":
        return cast(BinaryIO, _Xz(file, limits.max_document_bytes))
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtra("reading .zst", "zstd") from error
        return io.BufferedReader(
            _Zstd(file, zstandard.ZstdDecompressor(max_window_size=limits.max_document_bytes)), 1 << 17
        )
    return file


class _Xz(io.RawIOBase):
    """All streams of an .xz or .lzma file; the library's own reader has no limit of memory."""

    def __init__(self, file: BinaryIO, max_memory_bytes: int) -> None:
        self._file, self._max_memory_bytes = file, max_memory_bytes
        self._decompressor = lzma.LZMADecompressor(memlimit=max_memory_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while True:
            data = b""
            if self._decompressor.eof:
                data = self._decompressor.unused_data.lstrip(b"\0")  # streams may be padded with zeros
                while not data and (block := self._file.read(_SMALL_BYTES)):
                    data = block.lstrip(b"\0")
                if not data:
                    return 0
                self._decompressor = lzma.LZMADecompressor(memlimit=self._max_memory_bytes)
            elif self._decompressor.needs_input and not (data := self._file.read(_SMALL_BYTES)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if decompressed := self._decompressor.decompress(data, len(target)):
                target[: len(decompressed)] = decompressed
                return len(decompressed)


class _Zstd(io.RawIOBase):
    """All frames of a Zstandard file; the library's own reader stops after the first, and ignores a truncated one."""

    def __init__(self, file: BinaryIO, decompressor: Any) -> None:
        self._file, self._decompressor = file, decompressor
        self._frame: Any = None
        self._unused = b""
        self._decompressed = memoryview(b"")
        self._read_bytes = _MIN_READ_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._decompressed:
            data = self._unused or self._file.read(self._read_bytes)
            if not data and self._frame is not None:
                raise EOFError("Compressed file ended before the end-of-frame marker was reached")
            if not data:
                return 0
            self._decompress(data)
        n = min(len(target), len(self._decompressed))
        target[:n] = self._decompressed[:n]
        self._decompressed = self._decompressed[n:]
        return n

    def _decompress(self, data: bytes) -> None:
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        decompressed = self._frame.decompress(data)
        self._decompressed = memoryview(decompressed)
        self._unused = b""
        if self._frame.eof:
            self._unused, self._frame = self._frame.unused_data, None
        # One read is decompressed in memory: keep that near a block, also where 128 bytes become megabytes.
        wanted = len(data) * _BLOCK_BYTES // max(1, len(decompressed))
        self._read_bytes = max(_MIN_READ_BYTES, min(self._read_bytes * 2, wanted, _SMALL_BYTES))


def _damage_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that damaged data raises, for every compression."""
    known: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
    try:
        import zstandard
    except ImportError:
        return known
    return (*known, cast(type[Exception], zstandard.ZstdError))
