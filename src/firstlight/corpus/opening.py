"""Open a file, compressed or not, as a stream of bytes."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from firstlight.errors import CorpusError, MissingExtra

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


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
    errors = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, *_zstd_errors(path))
    try:
        with _open(path) as file:
            yield file
    except errors as error:
        raise CorpusError(f"is damaged or cut short: {error}", where=path, fix="Fetch or compress it again.") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise CorpusError(f"cannot be read: {error.strerror}", where=path) from error
        if path.suffix.lower() in COMPRESSED:
            raise CorpusError(f"is damaged or cut short: {error}", where=path, fix="Fetch or compress it again.") from error
        raise


def _open(path: Path) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtra("reading .zst", "zstd") from error
        return cast(BinaryIO, zstandard.open(path, "rb"))
    return path.open("rb")


def _zstd_errors(path: Path) -> tuple[type[Exception], ...]:
    if path.suffix.lower() != ".zst":
        return ()
    try:
        import zstandard
    except ImportError:
        return ()
    return (zstandard.ZstdError,)
