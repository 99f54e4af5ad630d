"""Files that a user names to be written: never replaced unasked; pipes and devices are written through."""

import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from firstlight.errors import UsageError
from firstlight.files.atomic import apply_umask, storage_errors, sync_file, sync_folder, temporary_path

STDOUT = Path("-")
_OPEN_FILE = re.compile(r"/dev/(stdout|stderr|fd/\d+)|/proc/(self|\d+)/fd/\d+")


def is_stream(path: Path) -> bool:
    """Whether a path is written through: ``-`` (standard output), a pipe, a device, or a file that is open already."""
    if path == STDOUT:
        return True
    # A redirected /dev/stdout is a regular file, which the shell has opened for this purpose.
    if _OPEN_FILE.fullmatch(str(path.absolute())):
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Args:
        path: the file; ``-`` for standard output.
        overwrite: whether an existing regular file is replaced.

    Raises:
        UsageError: it already exists, or is a folder.
        StorageError: its folder cannot be written.
    """
    if is_stream(path):
        return
    if path.is_dir():
        raise UsageError("is a folder", where=path, expected="a file", fix="Choose a file in it.")
    if not overwrite and path.exists():
        raise UsageError("already exists", where=path, fix="Choose another name, or add --overwrite to replace it.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with storage_errors(path):
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


@contextlib.contextmanager
def output_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write, which becomes ``path`` when the context closes without an error.

    A regular file appears by one rename, or not at all; one that exists is replaced only with ``overwrite``, through a
    symbolic link where there is one. A stream gets the content of the temporary file.

    Raises:
        UsageError: see ``check_output``; also where the file appeared in the meantime.
        StorageError: the disk is full or read-only.
    """
    check_output(path, overwrite=overwrite)
    with storage_errors(path):
        temporary = output_temporary(path)
        try:
            yield temporary
            apply_umask(temporary)
            publish_file(temporary, path, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)


def write_output(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file that the user named, as ``output_file``."""
    with output_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(data)


def output_temporary(path: Path) -> Path:
    """Return a path for what ``publish_file`` will move to ``path``, in a folder that exists, on its file system."""
    if is_stream(path):
        return temporary_path(Path(tempfile.gettempdir()) / (path.name or "out"))
    target = path.resolve()  # of a symbolic link
    target.parent.mkdir(parents=True, exist_ok=True)
    return temporary_path(target)


def publish_file(temporary: Path, path: Path, *, overwrite: bool = False) -> None:
    """Move a finished file to the path that the user named, or write its content to a stream.

    Without ``overwrite`` the file appears by a hard link, which fails where the path exists by now.

    Raises:
        UsageError: the path exists.
    """
    if is_stream(path):
        with temporary.open("rb") as file:
            _copy_to_stream(file, path)
        return
    target = path.resolve()
    sync_file(temporary)
    if overwrite or not _is_linked(temporary, target):
        check_output(path, overwrite=overwrite)
        temporary.replace(target)
    sync_folder(target.parent)


def _is_linked(source: Path, target: Path) -> bool:
    """Make a hard link; return False where the target exists, or the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def open_stream(path: Path) -> BinaryIO:
    """Open a pipe, a device or standard output for writing; it appends, where the shell opened a file for it."""
    if path == STDOUT:
        sys.stdout.flush()
        return sys.stdout.buffer
    with storage_errors(path):
        return path.open("ab")


def _copy_to_stream(file: BinaryIO, path: Path) -> None:
    if path == STDOUT:
        shutil.copyfileobj(file, open_stream(path))
        sys.stdout.buffer.flush()
        return
    with open_stream(path) as stream:
        shutil.copyfileobj(file, stream)
