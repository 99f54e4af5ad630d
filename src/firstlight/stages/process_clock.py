"""The time at which the process of a command began, so that a run's time includes imports."""

import os
import sys
import time
from pathlib import Path

# Holds one entry once a run of this process has counted from the start of the process.
_counted: list[float] = []


def process_start() -> float:
    """Return ``time.perf_counter()`` as it was when this command's process began, on Linux; elsewhere, now.

    The time that a notebook or program spent before it called the API does not count, nor does that of an earlier run
    in the same process.
    """
    now = time.perf_counter()
    is_command = Path(sys.argv[0]).stem == "firstlight" or sys.orig_argv[1:3] == ["-m", "firstlight"]
    if not is_command or _counted:
        return now
    _counted.append(now)
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return now - max(0.0, uptime - ticks)
    except (OSError, ValueError, IndexError):
        return now
