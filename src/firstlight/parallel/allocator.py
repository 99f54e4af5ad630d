"""Settings of glibc's memory allocator, which must be in the environment before the process starts.

glibc returns large blocks to the system when they are freed, and gets them back at the next step page by page: on a CPU
that costs a training step up to a third of its time. Higher thresholds keep the blocks, and huge pages make the first
access cheap. torch is not imported here.
"""

import os
import platform
import sys

_VARIABLE = "FIRSTLIGHT_ALLOCATOR"


def tunables(glibc: str) -> str:
    """Return the value of GLIBC_TUNABLES for a version of glibc such as "2.36"."""
    version = tuple(int(part) for part in glibc.split(".")[:2])
    # Versions before 2.35 have no hugetlb, and ignore a higher threshold: they would then map every block anew.
    threshold = 2**32 if version >= (2, 35) else 2**25
    value = f"glibc.malloc.mmap_threshold={threshold}:glibc.malloc.trim_threshold={2**32}"
    return f"{value}:glibc.malloc.hugetlb=1" if version >= (2, 35) else value


def state() -> str:
    """Describe the allocator's settings, for reports and ``doctor``."""
    if os.environ.get(_VARIABLE) == "tuned":
        return "tuned by Firstlight (GLIBC_TUNABLES)"
    if os.environ.get("LD_PRELOAD"):
        return "the user's own (LD_PRELOAD)"
    if os.environ.get("GLIBC_TUNABLES"):
        return "the user's own (GLIBC_TUNABLES)"
    return "off (FIRSTLIGHT_ALLOCATOR)" if _VARIABLE in os.environ else "the system's default"


def ensure_allocator() -> None:
    """Restart this command once with the allocator tuned; a user's own settings are left alone.

    Does nothing outside 64-bit Linux with glibc, with ``FIRSTLIGHT_ALLOCATOR=off``, or once torch is imported: then
    Firstlight is a library in another program (a test, a notebook), which must not be restarted.
    """
    library, version = platform.libc_ver()
    if sys.platform != "linux" or library != "glibc" or sys.maxsize < 2**32 or not sys.executable:
        return
    if "torch" in sys.modules:
        return
    if any(name in os.environ for name in (_VARIABLE, "GLIBC_TUNABLES", "LD_PRELOAD")):
        return
    environment = {**os.environ, "GLIBC_TUNABLES": tunables(version), _VARIABLE: "tuned"}
    # sys.orig_argv is the command as it was typed, interpreter options and -m included.
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
