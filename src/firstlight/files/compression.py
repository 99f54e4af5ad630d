"""Open a file, compressed or not, as a stream of bytes; damage is told apart from the end."""

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

from firstlight.errors import CorpusError, MissingExtra
from firstlight.files.atomic import storage_errors

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_BLOCK = 1 << 20
_SAMPLE = 1 << 18
_LITTLE = 1 << 16
_SAMPLED_FILES = 8
_LEAST_TAKE = 128


def bare_suffix(path: Path) -> str:
    """Return the suffix below a compressed one: ``.txt`` of ``a.txt.gz``."""
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return inner.suffix.lower()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for reading, decompressed.

    Raises:
        CorpusError: it is missing, not readable, or its compressed data is damaged or cut short.
        MissingExtra: zstandard is not installed.
    """
    try:
        with path.open("rb") as below, _unpacked(path, below) as file:
            yield file
    except _damage() as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # bz2 says OSError, without a number, where the others have an error of their own.
        if error.errno is None and path.suffix.lower() in COMPRESSED:
            raise _damaged(path, error) from error
        raise CorpusError(f"cannot be read: {error.strerror or error}", where=path) from error


@contextmanager
def seekable(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for reading anywhere; a compressed one is first unpacked to a temporary file.

    Raises:
        CorpusError: as ``opened``.
        StorageError: no space for the temporary file.
    """
    with opened(path) as file:
        if path.suffix.lower() not in COMPRESSED:
            yield file
            return
        with storage_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile(prefix="firstlight-") as unpacked:
            shutil.copyfileobj(file, unpacked, _BLOCK)
            unpacked.seek(0)
            yield cast(BinaryIO, unpacked)


def text_size(files: Sequence[Path]) -> int:
    """Return about how many bytes the files hold unpacked, judged by the beginning of the first few."""
    plain = sum(p.stat().st_size for p in files if p.suffix.lower() not in COMPRESSED)
    packed = [p for p in files if p.suffix.lower() in COMPRESSED]
    if not packed:
        return plain
    read = made = 0
    for path in packed[:_SAMPLED_FILES]:
        try:
            used, given = _sample(path)
        except (OSError, MissingExtra):
            continue
        except _damage():
            continue  # whoever reads the file will say what is wrong with it
        read, made = read + used, made + given
    return plain + round(sum(p.stat().st_size for p in packed) * (made / read if read else 1.0))


def _sample(path: Path) -> tuple[int, int]:
    """Unpack the beginning of a file: how many bytes were read, and how many they became."""
    made, block = 0, b""
    with path.open("rb") as below, _unpacked(path, below) as file:
        while made < _SAMPLE and (block := file.read(_LITTLE)):
            made += len(block)
        # And all else that comes from the bytes read so far: a block of bz2 gives 900 kB.
        used = below.tell()
        while below.tell() == used and (block := file.read(_LITTLE)):
            made += len(block)
    return used if block else path.stat().st_size, made


def _damaged(path: Path, error: Exception) -> CorpusError:
    return CorpusError(f"is damaged or cut short: {error}", where=path, fix="Fetch or compress it again.")


def _unpacked(path: Path, file: BinaryIO) -> BinaryIO:
    """Return a stream of what ``file`` holds; closing it leaves ``file`` open."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(file))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(file))
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtra("reading .zst", "zstd") from error
        return io.BufferedReader(_Zstd(file, zstandard.ZstdDecompressor()), 1 << 17)
    return file


class _Zstd(io.RawIOBase):
    """Every frame of a Zstandard file; the library's own reader stops after the first, and at a cut says nothing."""

    def __init__(self, file: BinaryIO, decompressor: Any) -> None:
        self._file, self._decompressor = file, decompressor
        self._frame: Any = None
        self._packed = b""
        self._made = memoryview(b"")
        self._take = _LEAST_TAKE

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._made:
            packed = self._packed or self._file.read(self._take)
            if not packed and self._frame is not None:
                raise EOFError("Compressed file ended before the end-of-frame marker was reached")
            if not packed:
                return 0
            self._unpack(packed)
        n = min(len(target), len(self._made))
        target[:n] = self._made[:n]
        self._made = self._made[n:]
        return n

    def _unpack(self, packed: bytes) -> None:
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        made = self._frame.decompress(packed)
        self._made = memoryview(made)
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
        # What one read unpacks to is all in memory: keep it near a block, also where 128 bytes become megabytes.
        wanted = len(packed) * _BLOCK // max(1, len(made))
        self._take = max(_LEAST_TAKE, min(self._take * 2, wanted, _LITTLE))


def _damage() -> tuple[type[Exception], ...]:
    """Return the errors that damaged data raises, whatever the compression."""
    known: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
    try:
        import zstandard
    except ImportError:
        return known
    return (*known, cast(type[Exception], zstandard.ZstdError))
