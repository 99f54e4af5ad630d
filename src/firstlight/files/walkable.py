"""Which folders are never walked: the root of the file system, and the file systems of the kernel."""

import os
import stat
from functools import lru_cache
from pathlib import Path

from firstlight.errors import UsageError

_KERNEL = ("/proc", "/sys")  # with everything below them
_MOUNTS = ("/dev", "/run")  # below them, as in /dev/shm and /run/media, are files like any other


def check_walkable(folder: str | Path, *, shown: object = None) -> None:
    """Check that a folder may be walked.

    Args:
        folder: it exists.
        shown: its name in the error.

    Raises:
        UsageError: it is the root of the file system, or of the kernel's.
    """
    real = os.path.realpath(folder)
    if Path(real).parent == Path(real):
        raise UsageError(
            "is the root of the file system, which is not read as a whole",
            where=shown or folder,
            fix="Name the folder that holds the files.",
        )
    if is_of_kernel(real):
        raise UsageError(
            "is a file system of the kernel, which holds no files to read",
            where=shown or folder,
            fix="Name the folder that holds the files.",
        )


def is_of_kernel(real: str) -> bool:
    """Whether the real path of a folder is one of the kernel's file systems, wherever it is mounted."""
    if real in _MOUNTS or any(is_inside(real, path) for path in _KERNEL):
        return True
    try:
        status = Path(real).stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_dev in _kernel_devices()


def is_inside(path: str, root: str) -> bool:
    """Whether a path is a folder or below it; both are real paths."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


@lru_cache(maxsize=1)
def _kernel_devices() -> frozenset[int]:
    """Return the device numbers of the kernel's file systems, which may be mounted elsewhere too."""
    found = set()
    for path in _KERNEL:
        try:
            found.add(Path(path).stat().st_dev)
        except OSError:
            continue
    return frozenset(found - {Path("/").stat().st_dev})
