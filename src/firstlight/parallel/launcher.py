"""End a process of a distributed run when its launcher, such as torchrun, has ended.

A launcher that is killed leaves its processes behind, which hold their GPUs and the lock of the run. torch is not
imported here, so that the watch can begin before that.
"""

import os
import signal
import threading
import time

_SECONDS_BETWEEN_CHECKS = 0.5
_SECONDS_TO_END = 600.0  # to finish a step and save; a process that waits for another one for ever is ended after them
_started = threading.Event()


def watch_launcher() -> None:
    """Send this process SIGTERM when its parent process has ended; the run saves and exits as on that signal."""
    if os.name != "posix" or _started.is_set():
        return
    _started.set()
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="launcher").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_END)
    os._exit(128 + signal.SIGTERM)
