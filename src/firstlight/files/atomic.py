"""Atomic writes: a file or folder appears complete, by one rename after fsync, or not at all."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from firstlight.errors import StorageError

# Only names of this form are ever removed: they are ours, down to the process that made them.
_PART, _OLD = "part", "old"
_TEMPORARY_NAME = re.compile(
    rf"\.firstlight-(?P<kind>{_PART}|{_OLD})-(?P<name>.+)-(?P<pid>\d+)-[0-9a-f]{{8}}", re.DOTALL
)
_MAX_NAME = 48  # characters of the final name in that of a temporary file: a file system's limit is often 255 bytes
_MAX_RETRIES = 100
# Errors of file systems that have no locks, such as some network and FUSE ones.
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
_MESSAGES = {
    errno.ENOSPC: ("no space left on the disk", "Free some space and run the same command again; nothing is lost."),
    errno.EFBIG: (
        "the file is larger than this disk or limit allows",
        "Choose a path on another disk, or raise ulimit -f.",
    ),
    errno.EDQUOT: ("the disk quota is used up", "Free some space and run the same command again; nothing is lost."),
    errno.EROFS: ("the file system is read-only", "Choose a path on another disk."),
    errno.EACCES: ("permission denied", "Choose a folder that you may write, or change its permissions."),
    errno.EPERM: ("not permitted", "Choose a folder that you may write, or change its permissions."),
    errno.EEXIST: ("a file exists where a folder is needed", "Choose another path, or move that file away."),
    errno.EIO: ("the disk reports an error", "Choose a path on another disk."),
    errno.EINTR: ("the system call was interrupted", "Run the same command again; nothing is lost."),
    errno.ESTALE: ("the network file system has lost the file", "Mount it again, then run the same command again."),
    errno.ETIMEDOUT: ("the file system does not answer", "Run the same command again when it does; nothing is lost."),
    errno.EBUSY: ("the file is in use", "Close the program that uses it, then run the same command again."),
    errno.ENOMEM: ("out of memory", "Free some memory and run the same command again; nothing is lost."),
    errno.EMFILE: ("too many open files", "Raise the limit (ulimit -n) and run the same command again."),
    errno.ENFILE: ("too many open files on this machine", "Run the same command again later; nothing is lost."),
    errno.ELOOP: ("too many symbolic links", "Choose another path."),
    errno.EISDIR: ("a folder exists where a file is needed", "Choose another path, or move that folder away."),
    errno.ENAMETOOLONG: ("the path is too long", "Choose a shorter one."),
    errno.ENOTDIR: ("a file exists where a folder is needed", "Choose another path, or move that file away."),
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert the operating system's errors about ``path`` into a StorageError that says what to do."""
    try:
        yield
    except Exception as raised:
        error = _system_error(raised)
        if error is None:
            raise
        # A missing file or a broken connection is about what is read, not about the disk.
        if error.errno is None or isinstance(error, FileNotFoundError | ConnectionError):
            raise
        problem, fix = _MESSAGES.get(error.errno, (str(error.strerror), "Choose another path."))
        raise StorageError(problem, where=_final_path(path), fix=fix) from raised


def _final_path(path: Path) -> Path:
    """Replace the temporary folders and files of a path with what they are to become, which a user knows."""
    matches = [(_TEMPORARY_NAME.fullmatch(part), part) for part in path.parts]
    return Path(*(part if match is None else match["name"] for match, part in matches))


def _system_error(error: Exception) -> OSError | None:
    """Return an error of the operating system; safetensors reports its number as text."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


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
            _retry(temporary.replace, path)
            sync_folder(path.parent)
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
            publish_directory(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_directory(temporary: Path, path: Path) -> None:
    """Fsync a folder and rename it to ``path`` on the same file system, replacing a folder there."""
    for file in sorted(temporary.rglob("*")):
        sync_file(file)
    sync_file(temporary)
    if path.exists():
        old = path.with_name(_temporary_name(_OLD, path.name))
        _retry(path.rename, old)
        _retry(temporary.rename, path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        _retry(temporary.rename, path)
    sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to a file, or a copy of it on another file system or one without links.

    A symbolic link is followed, so that the target stays when the file that it leads to is deleted.
    """
    real = source.resolve()
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def append_line(path: Path, line: str) -> None:
    """Append a line in a single write, so that readers do not see half of it."""
    with storage_errors(path), path.open("ab") as file:
        file.write(line.encode("utf-8") + b"\n")


def remove_stale_files(folder: Path) -> list[Path]:
    """Remove the temporary files and folders that a killed process of ours left in ``folder``; return them.

    A folder that was moved aside but not replaced is restored. Files of processes that still run on this machine are
    kept, and so is every file whose name does not have exactly the form of ``temporary_path``.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _TEMPORARY_NAME.fullmatch(path.name)
        if match is None or _in_use(int(match["pid"])):
            continue
        if match["kind"] == _OLD and not (target := folder / match["name"]).exists():
            _retry(path.rename, target)
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path)
    return removed


def is_temporary(name: str) -> bool:
    """Whether a file of that name is one of our temporary files, or a folder of ours that was moved aside."""
    return _TEMPORARY_NAME.fullmatch(name) is not None


def temporary_path(path: Path) -> Path:
    """Return a unique path in the same folder for a file that will be renamed to ``path``."""
    return path.with_name(_temporary_name(_PART, path.name[:_MAX_NAME]))


def _temporary_name(kind: str, name: str) -> str:
    return f".firstlight-{kind}-{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


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
            _retry(temporary.replace, path)
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


def _retry(call: Callable[[Path], object], path: Path) -> None:
    """Call again what a signal has interrupted: Python repeats reads and writes itself (PEP 475), not renames."""
    for _ in range(_MAX_RETRIES):
        with contextlib.suppress(InterruptedError):
            call(path)
            return
    call(path)


def sync_file(path: Path) -> None:
    """Fsync a file or, on POSIX, a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that a rename in it is durable."""
    # Windows cannot open folders; there the rename is durable anyway.
    if os.name == "posix":
        sync_file(folder)
