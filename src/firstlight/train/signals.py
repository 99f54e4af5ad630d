"""SIGTERM and Ctrl-C end a run after the current step and save it; a second Ctrl-C ends it at once."""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from firstlight import progress


class StopSignals:
    """Context manager that records the first SIGTERM or SIGINT in ``name``; it restores the handlers on exit.

    It does nothing outside the main thread, where Python does not allow signal handlers.
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
            os._exit(130)  # at once, without clean-up: checkpoints are intact at any moment
        self.name = self.name or signal.Signals(number).name
        # A signal may arrive during a write to the same stream, which is not reentrant.
        with contextlib.suppress(RuntimeError):
            progress.notice(f"{self.name}: stopping after this step and saving; press Ctrl-C again to quit at once")
