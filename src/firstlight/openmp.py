"""How long idle OpenMP threads spin before they sleep, which must be in the environment before the runtime is loaded.

torch's operations on a CPU are parallel regions of OpenMP. A thread that has finished its part spins, for some
milliseconds by default, so that the next region starts at once. It cannot see that another program waits for its core:
two runs on one machine then take many times as long as one after the other. A short spin costs little when the machine
is idle. The results do not depend on it. docs/benchmarks.md has the measurements. torch is not imported here.

Sources: GOMP_SPINCOUNT of GNU libgomp (Linux); KMP_BLOCKTIME of LLVM's and Intel's runtime (macOS, Windows, conda).
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = {
    "GOMP_SPINCOUNT": "3000",  # rounds of a busy loop, about 0.1 ms; the default is 300,000
    "KMP_BLOCKTIME": "1",  # ms; the default is 200
}
# Where one of these is set, the user has chosen how idle threads wait.
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
_RUNTIMES = ("libgomp", "libiomp", "libomp")
# Packages that load a runtime with them, for systems where loaded libraries cannot be listed.
_PACKAGES = ("torch", "sklearn", "numba", "faiss", "xgboost", "lightgbm")

_limited = False  # whether the runtime was loaded while our values were set


def limit_spinning() -> None:
    """Set the environment of this process, unless the user has chosen, or a runtime is loaded already.

    For the command line, first thing: child processes inherit it.
    """
    global _limited
    if _may_set():
        os.environ.update(OURS)
        _limited = True


@contextmanager
def limited_spinning() -> Iterator[None]:
    """Set the environment during an import that may load torch, as ``limit_spinning`` does, and take it out again.

    For use as a library: programs that the caller starts later have its own environment.
    """
    global _limited
    if not _may_set():
        yield
        return
    os.environ.update(OURS)
    try:
        yield
    finally:
        _limited = _is_runtime_loaded()
        for name in OURS:
            os.environ.pop(name, None)


def state() -> str:
    """Describe how idle OpenMP threads wait, for reports and ``doctor``."""
    if _limited or all(os.environ.get(name) == value for name, value in OURS.items()):
        ours = ", ".join(f"{name}={value}" for name, value in OURS.items())
        return f"{ours} (set by Firstlight, so that idle threads spin briefly)"
    own = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return f"{', '.join(own)} (the user's own)" if own else "idle threads spin as long as the runtime's default"


def _may_set() -> bool:
    return not any(name in os.environ for name in VARIABLES) and not _is_runtime_loaded()


def _is_runtime_loaded() -> bool:
    if any(name in sys.modules for name in _PACKAGES):
        return True
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False
    return any(name in maps for name in _RUNTIMES)
