"""Atomic writes: a file or folder appears complete, by one rename after fsync, or not at all."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from firstlight.errors import StorageError

_TEMPORARY = ".part-"
_OLD = ".old-"
# Nothing but what temporary_beside named may be removed.
_TEMPORARY_NAME = re.compile(rf"{re.escape(_TEMPORARY)}.+-(?P<pid>\d+)-[0-9a-f]{{8}}", re.DOTALL)
_MESSAGES = {
    errno.ENOSPC: ("no space left on the disk", "Free some space and run the same command again; nothing is lost."),
    errno.EFBIG: (
        "the file is larger than this disk or limit allows",
        "Choose another disk with --out, or raise ulimit -f.",
    ),
    errno.EDQUOT: ("the disk quota is used up", "Free some space and run the same command again; nothing is lost."),
    errno.EROFS: ("the file system is read-only", "Choose another folder with --out."),
    errno.EACCES: ("permission denied", "Choose a folder that you may write, or change its permissions."),
    errno.EPERM: ("not permitted", "Choose a folder that you may write, or change its permissions."),
    errno.EEXIST: ("a file exists where a folder is needed", "Choose another path, or move that file away."),
    errno.EIO: ("the disk reports an error", "Choose another disk with --out."),
    errno.EISDIR: ("a folder exists where a file is needed", "Choose another path, or move that folder away."),
    errno.ENAMETOOLONG: ("the path is too long", "Choose a shorter one."),
    errno.ENOTDIR: ("a file exists where a folder is needed", "Choose another path, or move that file away."),
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert the operating system's errors about ``path`` into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MESSAGES:
            raise
        problem, fix = _MESSAGES[error.errno]
        raise StorageError(problem, where=path, fix=fix) from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically: afterwards, also after a crash, it has the old or the new content."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``, renamed to ``path`` when the context closes without an error.

    An existing folder is replaced: it is moved aside, and restored by ``remove_stale_files`` if the process dies before
    the new one is in place. All files are fsynced before the rename. On an error the temporary folder is removed and
    ``path`` is unchanged.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        temporary.mkdir()
    try:
        with storage_errors(path):
            yield temporary
            for file in sorted(temporary.rglob("*")):
                _sync(file)
            _sync(temporary)
            if path.exists():
                old = path.with_name(f"{_OLD}{path.name}")
                shutil.rmtree(old, ignore_errors=True)
                path.rename(old)
                temporary.rename(path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                temporary.rename(path)
            _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Append a line in a single write, so that readers do not see half of it."""
    with storage_errors(path), path.open("ab") as file:
        file.write(line.encode("utf-8") + b"\n")


def remove_stale_files(folder: Path) -> list[Path]:
    """Remove temporary files and folders that a killed process left in ``folder``; return them.

    A folder that was moved aside but not replaced is restored first. Files of other running processes on this machine
    are kept.
    """
    for old in folder.glob(f"{_OLD}*"):
        target = folder / old.name.removeprefix(_OLD)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    candidates = [(p, _TEMPORARY_NAME.fullmatch(p.name)) for p in (folder.iterdir() if folder.is_dir() else ())]
    found = [path for path, match in candidates if match and not _in_use(int(match["pid"]))]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def temporary_path(path: Path) -> Path:
    """Return a unique path in the same folder for a file that will be renamed to ``path``."""
    return path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a library to write, renamed to ``path`` when the context closes without an error.

    Raises:
        StorageError: the disk is full or read-only.
    """
    temporary = temporary_path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            apply_umask(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def apply_umask(path: Path) -> None:
    """Set the permissions of a new file; safetensors makes files that only their owner may read."""
    if os.name == "posix":
        masked = os.umask(0)
        os.umask(masked)
        path.chmod(0o666 & ~masked)


def _in_use(pid: int) -> bool:
    """Whether another process of that id is running."""
    if os.name != "posix" or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    # Windows cannot open folders; there the rename is durable anyway.
    if os.name == "posix":
        _sync(folder)
