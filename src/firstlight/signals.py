"""Signals that end a command: SIGTERM, Ctrl-C (SIGINT), SIGHUP, SIGUSR1 and SIGXCPU.

While a run trains, a signal is recorded (``StopSignals``): the run ends after the current step and saves. In every
other part of a command, a signal raises ``Interrupted`` at once (``install``). Either way the exit code is 128 plus the
signal's number: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP, 138 for SIGUSR1 and 152 for SIGXCPU on Linux.

A signal that is ignored when the process starts stays ignored, as ``nohup`` and shells expect.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from firstlight import progress
from firstlight.errors import Interrupted

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGXCPU")
_SECONDS_TO_END = 1.5  # that a command has to end by itself, after a signal outside training
_active: list["StopSignals"] = []
_installed = threading.Event()  # in this process
_reported = threading.Event()  # how the command ended has been reported


class StopSignals:
    """Context manager that records the first signal in ``name``; it restores the handlers on exit.

    A second Ctrl-C ends the process at once. It does nothing outside the main thread, where Python does not allow
    signal handlers.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._raises = False
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in _unignored_signals():
            self._old[number] = signal.signal(number, self._handle)
        if self._old:
            _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._old:
            _active.remove(self)
        for number, old in self._old.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Raise ``Interrupted`` on a signal within the context, or at its start if one has arrived already."""
        try:
            self._raises = True
            if self.name is not None:
                raise Interrupted(self.name)
            yield
        finally:
            self._raises = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.name is not None:
            if number == signal.SIGINT:
                _show_cursor()
                os._exit(130)  # at once, without clean-up: checkpoints are intact at any moment
            return
        self.name = signal.Signals(number).name
        # A signal may arrive during a write to the same stream, which is not reentrant.
        hint = "; a second Ctrl-C ends it at once" if number == signal.SIGINT else ""
        with contextlib.suppress(RuntimeError):
            progress.notice(f"{self.name}: stopping after this step and saving{hint}")
        if self._raises:
            self._raises = False  # only once, so that the code that cleans up is not interrupted
            raise Interrupted(self.name)


def is_training() -> bool:
    """Whether a run is training in this process, so that signals are recorded."""
    return bool(_active)


def raise_on_signal() -> contextlib.AbstractContextManager[None]:
    """Return a context for long work within training that changes nothing: a signal raises ``Interrupted`` in it."""
    return _active[-1].raising() if _active else contextlib.nullcontext()


def install(report: Callable[[str], None]) -> None:
    """Let signals raise ``Interrupted`` (Ctrl-C: ``KeyboardInterrupt``) from now on, outside training.

    Python runs signal handlers between bytecodes of the main thread, which may be in a library for minutes. A process
    that has not ended after a second and a half is therefore ended by a thread; what it was writing stays under the
    name of a temporary file, which the next run removes.

    Args:
        report: called with the signal's name before the thread ends the process.
    """
    handled: dict[int, float] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            handled[number] = time.monotonic()  # a conversation continues after Ctrl-C
            raise KeyboardInterrupt
        raise Interrupted(signal.Signals(number).name)

    _installed.set()
    numbers = _unignored_signals()
    for number in numbers:
        signal.signal(number, handle)
    if not numbers or os.name != "posix":
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def watch() -> None:
        while received := os.read(reader, 1):
            number, arrived = received[0], time.monotonic()
            if number not in numbers or is_training():
                continue
            time.sleep(_SECONDS_TO_END)
            if handled.get(number, 0.0) < arrived - _SECONDS_TO_END and not is_training():
                if not _reported.is_set():
                    report(signal.Signals(number).name)
                os._exit(128 + number)

    threading.Thread(target=watch, daemon=True, name="signals").start()


@contextlib.contextmanager
def default_action() -> Iterator[None]:
    """Let signals end the process at once, by the system's default action, instead of raising ``Interrupted``.

    For calls of a library that hold the interpreter's lock for long: no handler runs before they return. A shell
    reports the same exit code.
    """
    old = {number: signal.signal(number, signal.SIG_DFL) for number in _unignored_signals() if _installed.is_set()}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def deliver_again(name: str) -> None:
    """Raise a signal that ended a run once more, unless our command line reports it: the caller has not seen it."""
    if not _installed.is_set() and threading.current_thread() is threading.main_thread():
        signal.raise_signal(getattr(signal, name))


def uninstall() -> None:
    """Restore the system's handling of signals, for the end of the process."""
    _reported.set()
    for number in _unignored_signals():
        signal.signal(number, signal.SIG_DFL)


def _show_cursor() -> None:
    """Show the cursor of the terminal, which a progress bar has hidden; safe within a signal handler."""
    with contextlib.suppress(OSError, ValueError):
        # A terminal that is stopped (Ctrl-S) would block.
        if os.isatty(2) and select.select([], [2], [], 0)[1]:
            os.write(2, b"\x1b[?25h\n")


def _unignored_signals() -> list[signal.Signals]:
    """Return the signals of this system that are not ignored; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
