"""Short spinning of idle OpenMP threads while other programs need the cores. torch is not imported here.

torch's operations on a CPU are parallel regions of OpenMP. A thread that has finished its part spins for some
milliseconds before it sleeps, so that the next region starts at once, and cannot see that another program waits for its
core: two runs on one machine then take many times as long as one after the other. A short spin is no answer, since it
costs up to half of the speed where the machine is idle.

GNU libgomp, which torch uses on Linux, spins for 100 rounds instead of 300,000 while a process has more OpenMP threads
than there are cores. So while the threads of this process wait for processors, another thread holds a team of its own,
which sleeps. Results do not depend on it. LLVM's and Intel's runtimes yield while they spin, and are left alone.

Sources: GOMP_SPINCOUNT and OMP_WAIT_POLICY in the manual of libgomp; docs/decisions/0017-spinning-threads.md.
"""

import ctypes
import functools
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstlight.parallel.cores import affinity_cores, longest_wait, waiting_seconds

# Where one of these is set, the user has chosen how idle threads wait.
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_SECONDS_BETWEEN_CHECKS = 0.5
_BUSY_SHARE = 0.15  # of the time that a thread waits for a processor, from which on others need the cores
_IDLE_SHARE = 0.03
_IDLE_CHECKS = 6  # in a row, before threads spin long again

_active: "SpinControl | None" = None


@contextmanager
def adapt_spinning() -> Iterator[None]:
    """Let idle threads of this process spin briefly whenever other programs need the cores, within the context."""
    global _active
    if _active is not None or not _is_supported():
        yield
        return
    _active = SpinControl()
    try:
        yield
    finally:
        _active.stop()
        _active = None


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch's operators run on the calling thread alone, within the context; other threads keep their number.

    For programs with threads of their own, whose cores the idle threads of OpenMP would take. It has no effect with
    other runtimes than libgomp. ``torch.set_num_threads`` would also change the number of threads that start meanwhile.
    """
    libgomp = _loaded_libgomp()
    if libgomp is None:
        yield
        return
    n = libgomp.omp_get_max_threads()
    libgomp.omp_set_num_threads(1)
    try:
        yield
    finally:
        libgomp.omp_set_num_threads(n)


@functools.cache
def _loaded_libgomp() -> ctypes.CDLL | None:
    return _load_libgomp()


def state() -> str:
    """Describe how idle OpenMP threads wait, for reports and ``doctor``."""
    own = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    if own:
        return f"idle threads wait as the user's {', '.join(own)} says"
    if _is_supported():
        return f"idle threads spin briefly while other programs need the cores ({' or '.join(VARIABLES)}: always alike)"
    return "idle threads wait as the runtime does by default"


def _is_supported() -> bool:
    return sys.platform == "linux" and not any(name in os.environ for name in VARIABLES)


class SpinControl:
    """A background thread that looks twice a second whether the threads of this process wait for processors."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="openmp-spin")
        self._thread.start()

    def stop(self) -> None:
        """End the thread; idle threads spin as long as by default again."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        team: SleepingTeam | None = None
        idle_checks, waited, then = 0, waiting_seconds(), time.monotonic()
        while not self._stopped.wait(_SECONDS_BETWEEN_CHECKS):
            before, waited = waited, waiting_seconds()
            share, then = longest_wait(before, waited) / (time.monotonic() - then), time.monotonic()
            idle_checks = idle_checks + 1 if share < _IDLE_SHARE else 0
            if team is None and share > _BUSY_SHARE:
                team = SleepingTeam.start()
            elif team is not None and idle_checks >= _IDLE_CHECKS:
                team.end()
                team = None
        if team is not None:
            team.end()


class SleepingTeam:
    """A team of OpenMP threads that sleeps, so that the process has more of them than there are cores."""

    def __init__(self, libgomp: ctypes.CDLL, size: int) -> None:
        self._ended = threading.Event()
        started = threading.Event()

        def hold() -> None:
            # The team runs free(NULL), which does nothing. It belongs to this thread, and ends with it.
            no_operation = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
            libgomp.GOMP_parallel(no_operation, None, ctypes.c_uint(size), ctypes.c_uint(0))
            started.set()
            self._ended.wait()

        self._thread = threading.Thread(target=hold, daemon=True, name="openmp-team")
        self._thread.start()
        started.wait(timeout=5)

    @classmethod
    def start(cls) -> "SleepingTeam | None":
        """Start a team, unless libgomp is not loaded: torch is not imported yet, or has another runtime."""
        libgomp = _load_libgomp()
        return None if libgomp is None else cls(libgomp, affinity_cores() + 1)

    def end(self) -> None:
        """End the team."""
        self._ended.set()
        self._thread.join(timeout=5)


def _load_libgomp() -> ctypes.CDLL | None:
    """Return the libgomp that torch has loaded; other packages may have loaded copies of their own."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    paths = sorted(set(re.findall(r"(/\S.*libgomp[^/\n]*\.so[^/\n]*)$", maps, re.MULTILINE)))
    paths.sort(key=lambda path: "torch" not in path)
    if "torch" not in sys.modules or not paths:
        return None
    try:
        library = ctypes.CDLL(paths[0])
        _ = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    return library
