"""The memory allocator's settings, which must stand in the environment before the process starts.

glibc gives large blocks back to the system when they are freed and takes them again at the next
step, page by page: on a CPU that costs a training step up to a third of its time. Raising its
thresholds keeps the blocks, and huge pages make the first touch cheap. torch is not imported here.
"""

import os
import platform
import sys

TUNABLES = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296:glibc.malloc.hugetlb=1"
_MARK = "FIRSTLIGHT_ALLOCATOR"


def state() -> str:
    """Say how the allocator stands, for reports and ``doctor``."""
    if os.environ.get(_MARK) == "tuned":
        return "tuned by Firstlight (GLIBC_TUNABLES)"
    if os.environ.get("LD_PRELOAD"):
        return "the user's own (LD_PRELOAD)"
    if os.environ.get("GLIBC_TUNABLES"):
        return "the user's own (GLIBC_TUNABLES)"
    return "off (FIRSTLIGHT_ALLOCATOR)" if _MARK in os.environ else "the system's default"


def ensure_allocator() -> None:
    """Start this same command again with the allocator tuned, once; a user's own settings are left alone.

    Does nothing off Linux with glibc, or where ``FIRSTLIGHT_ALLOCATOR=off``.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    if any(name in os.environ for name in (_MARK, "GLIBC_TUNABLES", "LD_PRELOAD")):
        return
    environment = {**os.environ, "GLIBC_TUNABLES": TUNABLES, _MARK: "tuned"}
    # sys.orig_argv is the command as it was typed, interpreter options and -m included.
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
