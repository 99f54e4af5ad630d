"""The processors that this process may use, and how long it waits for them. torch is not imported here."""

import contextlib
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

_SECONDS_BETWEEN_CHECKS = 30.0
_SECONDS_BETWEEN_NOTICES = 600.0
_TASK = Path("/proc/self/task")
_WAITING_SHARE = 0.25  # of the time: two equally busy programs on the same cores wait for half of it


def affinity_cores() -> int:
    """Return the number of processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of processors of this process: those it may run on, within the container's CPU time.

    Args:
        root: folder of ``proc`` and ``sys``.
    """
    cores = affinity_cores()
    quota = _cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cpu_quota(root: Path) -> float | None:
    """Return the processors' worth of time that the control groups of this process grant; None without a limit."""
    quotas = []
    for group in _control_groups(root):
        try:
            if (group / "cpu.max").is_file():  # version 2: "200000 100000", or "max 100000"
                limit, period = (group / "cpu.max").read_text(encoding="ascii").split()
            else:  # version 1: -1 is no limit
                limit, period = (
                    (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
                )
            if float(limit) > 0 and float(period) > 0:
                quotas.append(float(limit) / float(period))
        except (OSError, ValueError):
            continue
    return min(quotas, default=None)


def _control_groups(root: Path) -> list[Path]:
    """Return the folders of this process's control groups and of the groups around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    folders = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in ("cpu,cpuacct", "cpu") if controllers else ("", "unified"):
            base = root / "sys/fs/cgroup" / mount
            group = base / path.lstrip("/")
            # In a container the path may be that of the host, of which only the end is mounted.
            folders += [group, *(parent for parent in group.parents if parent == base or base in parent.parents)]
    return folders


def waiting_seconds(task: Path = _TASK) -> dict[str, float]:
    """Return the seconds that each thread of this process was ready to run and had no processor; empty off Linux.

    Args:
        task: folder with one folder per thread of the process.
    """
    waited = {}
    for path in task.glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a thread may end meanwhile
            waited[path.parent.name] = int(path.read_text(encoding="ascii").split()[1]) / 1e9
    return waited


def longest_wait(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return the seconds between two calls of ``waiting_seconds`` of the thread that waited longest."""
    return max((waited - before.get(name, waited) for name, waited in now.items()), default=0.0)


class WaitingTime:
    """Watches how long the threads of this process wait for a processor while they could run; on Linux only."""

    def __init__(self, task: Path = _TASK) -> None:
        """Start to watch.

        Args:
            task: folder with one folder per thread of the process.
        """
        self._task = task
        self._checked_at = time.monotonic()
        self._waited = waiting_seconds(self._task)
        self._noticed_at = -math.inf

    def check(self) -> str | None:
        """Return a line if the cores were busy with something else since the last check.

        It reads a small file per thread, at most every 30 seconds, and returns a line at most every ten minutes.
        """
        seconds = time.monotonic() - self._checked_at
        if seconds < _SECONDS_BETWEEN_CHECKS:
            return None
        before, self._waited = self._waited, waiting_seconds(self._task)
        self._checked_at += seconds
        share = longest_wait(before, self._waited) / seconds
        if share < _WAITING_SHARE or self._checked_at - self._noticed_at < _SECONDS_BETWEEN_NOTICES:
            return None
        self._noticed_at = self._checked_at
        return (
            f"this run waited for a processor for {share:.0%} of the last {seconds:.0f} s, and is slower for it: other "
            "programs, or the limit of the container, take the cores"
        )
