"""SIGTERM and Ctrl-C ask a run to save and end; a second Ctrl-C ends it at once."""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from firstlight import progress


class StopSignals:
    """While open, remembers the first SIGTERM or SIGINT in ``name``; handlers are put back on exit.

    In a thread other than the main one it stays silent: handlers are the main thread's.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.name is not None and number == signal.SIGINT:
            os._exit(130)  # asked twice: no clean-up may hold it up; checkpoints are whole at any moment
        self.name = self.name or signal.Signals(number).name
        # A signal can fall into a write to the same stream, which then refuses a second one.
        with contextlib.suppress(RuntimeError):
            progress.notice(f"{self.name}: ending after this step, saving first; Ctrl-C again quits at once")
