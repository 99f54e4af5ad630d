"""Read the members of an untrusted zip file, each within the limits."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from firstlight.errors import CorpusError, Failure
from firstlight.files.limits import DEFAULT_LIMITS, Limits, open_regular

_OTHER_METHODS = {9: "deflate64", 14: "lzma", 93: "zstd", 95: "xz", 98: "ppmd", 99: "encrypted by AES"}
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated", zipfile.ZIP_BZIP2: "bzip2"}
_UTF8_FLAG = 0x800
_BLOCK_BYTES = 1 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class ZipReader:
    """The members of an open zip file; all of them together may not expand further than the limits allow.

    Attributes:
        names: of the members that are files, in order.
        unknown_names: of those whose encoding the file does not say, and which are not UTF-8.
        links: of the members that are symbolic links, which are never followed.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path, limits: Limits, error: type[Failure]) -> None:
        self._archive, self._path, self._limits, self._error = archive, path, limits, error
        self._n_compressed, self._n_bytes = path.stat().st_size, 0
        members = [info for info in archive.infolist() if not info.is_dir()]
        self._members = {_decode_name(info): info for info in members}
        self.links = [name for name, info in self._members.items() if stat.S_ISLNK(info.external_attr >> 16)]
        self.names = [name for name, info in self._members.items() if not stat.S_ISLNK(info.external_attr >> 16)]
        self.unknown_names = [name for name in self.names if not (name.isascii() or _is_utf8(self._members[name]))]

    def read(self, name: str) -> bytes:
        """Read a member of at most ``max_document_bytes``.

        Raises:
            Failure: it is larger, damaged, encrypted, compressed by an unknown method, or there is none of that name.
        """
        parts, size = [], 0
        info = self._members.get(name)
        claimed = 0 if info is None else info.file_size
        self._limits.check_size(claimed, "the member", self._where(name), error=self._error)
        for block in self.iter_blocks(name):
            size += len(block)
            self._limits.check_size(size, "the member", self._where(name), error=self._error)
            parts.append(block)
        return b"".join(parts)

    def extract(self, name: str, out: BinaryIO) -> None:
        """Copy a member to an open file.

        Raises:
            Failure: as ``read``, but it may have any size.
        """
        for block in self.iter_blocks(name):
            out.write(block)

    def iter_blocks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member, a block at a time.

        Raises:
            Failure: as ``extract``.
        """
        where = self._where(name)
        info = self._members.get(name)
        if info is None:
            raise self._error("has no such member", where=where)
        if info.flag_bits & 1:
            raise self._error("is encrypted", where=where, fix="Unpack it with its password, and name the folder.")
        if info.compress_type not in _METHODS:
            raise self._error(
                "has an unsupported compression method",
                where=where,
                found=_OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}"),
                expected=", ".join(_METHODS.values()),
                fix="Unpack it, and name the folder.",
            )
        try:
            with self._archive.open(info) as file:
                while block := file.read(_BLOCK_BYTES):
                    self._n_bytes += len(block)
                    self._limits.check_ratio(self._n_bytes, self._n_compressed, where, error=self._error)
                    yield block
        except (*_DAMAGE, OSError, ValueError) as refused:
            raise self._error(f"is damaged: {refused}", where=where, fix="Fetch it again.") from refused

    def _where(self, name: str) -> str:
        return f"{self._path}!{name}"


def _decode_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name; where the file does not say that it is UTF-8, many programs write that all the same."""
    if info.flag_bits & _UTF8_FLAG or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _is_utf8(info: zipfile.ZipInfo) -> bool:
    return bool(info.flag_bits & _UTF8_FLAG) or _decode_name(info) != info.filename


@contextmanager
def open_zip(path: Path, *, limits: Limits = DEFAULT_LIMITS, error: type[Failure] = CorpusError) -> Iterator[ZipReader]:
    """Open a zip file.

    Raises:
        Failure: of the class ``error``: it is missing, not readable or not a zip file.
    """
    try:
        file = open_regular(path, error=error)
    except OSError as refused:
        raise error(f"cannot be read: {refused.strerror or refused}", where=path) from refused
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (*_DAMAGE, OSError, ValueError, OverflowError, struct.error) as refused:
            raise error(f"cannot be read as a zip file: {refused}", where=path) from refused
        with archive:
            yield ZipReader(archive, path, limits, error)
