"""Show progress on stderr: one live line in a terminal, otherwise whole lines now and then; and in the log file."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TextIO

from firstlight.cli.live_line import LiveLine, ObservedStream
from firstlight.cli.log_file import LogFile
from firstlight.cli.plain_lines import PlainLines
from firstlight.cli.progress_text import full_line
from firstlight.errors import StorageError
from firstlight.progress import Event

_WARNING = "yellow"
_STYLES = {"": "", "dim": "2", "yellow": "33", "bold red": "1;31"}
_LOCK_SECONDS = 0.5
_SHORTEST_SECONDS = 0.1  # of a task whose duration is shown
_open: list["ProgressBar"] = []


class ProgressBar:
    """A listener for progress events.

    In a terminal the task in progress is one line that disappears when it is done; elsewhere a long task prints a line
    now and then. Notices and warnings are lines of their own.

    Args:
        quiet: show warnings and errors only.
        verbose: also show details, and how long each task took.
        log: receives everything.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, log: LogFile | None = None) -> None:
        self._quiet, self._verbose, self._log = quiet, verbose, log
        self._log_failed = False
        self._main = os.environ.get("RANK", "0") == "0"
        self._lock = threading.RLock()
        self._stream: TextIO | None = None  # of the context; otherwise the present sys.stderr
        self._live: LiveLine | None = None
        self._plain = PlainLines(self._show)
        self._logged = PlainLines(self._write_log)
        self._started: dict[str, float] = {}

    def __enter__(self) -> "ProgressBar":
        self._stream = sys.stderr
        if self._main and not self._quiet and _is_terminal():
            self._live = LiveLine(self._stream)
        _open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        _open.remove(self)
        self._live = self._stream = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._locked():
            if not event.task:
                self._notice(event)
            elif self._main:
                self._task(event)

    def line(self, text: str, style: str = "") -> None:
        """Print one line on stderr, above the live one, and in the log."""
        with self._locked():
            self._write_log(text)
            if not self._quiet or style == _WARNING:
                self._show(text, style)

    def log(self, text: str) -> None:
        """Write a line into the log only."""
        if self._main:
            self._write_log(text)

    def error(self, message: str) -> None:
        """Print the error message of a failed command."""
        self._last(" ".join(f"error: {message}".splitlines()), "bold red")

    def interrupted(self, signal_name: str) -> None:
        """Print that a signal ended the command; the first of several processes does."""
        if self._main:
            self._last("interrupted" if signal_name == "SIGINT" else f"interrupted ({signal_name})")
        else:
            self._stop()

    @contextlib.contextmanager
    def watch_output(self) -> Iterator[None]:
        """Keep what others print apart from the live line, and write what goes to standard output into the log."""
        if self._live is None and self._log is None:
            yield
            return
        shares_terminal = self._live is not None and sys.stdout.isatty()
        output = ObservedStream(sys.stdout, lambda text: self._before_output(text, shares_terminal, self._log))
        errors = ObservedStream(sys.stderr, lambda text: self._before_output(text, self._live is not None, None))
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            yield

    def _before_output(self, text: str, shares_terminal: bool, log: LogFile | None) -> None:
        with self._locked():
            if shares_terminal and self._live is not None:
                self._live.before_output(text)
            if log is not None:
                self._try_log(lambda: log.output(text))

    def _notice(self, event: Event) -> None:
        if event.level == "warning":
            self.line(f"warning: {event.text}", _WARNING)
        elif not self._main:
            return
        elif event.level == "detail" and not self._verbose:
            self._write_log(event.text)
        else:
            self.line(event.text, "dim" if event.level == "detail" else "")

    def _task(self, event: Event) -> None:
        started = self._started.setdefault(event.task, time.monotonic())
        if self._log is not None:
            self._logged.update(event)
        if self._live is not None:
            if event.finished and event.task == "train" and event.text:
                self._live.print(full_line(event))
            self._live.update(event)
        elif not self._quiet:
            self._plain.update(event)
        if event.finished:
            del self._started[event.task]
            seconds = time.monotonic() - started
            if seconds >= _SHORTEST_SECONDS:
                self._notice(Event(level="detail", text=f"{event.task}: {seconds:.1f} s"))

    def _last(self, text: str, style: str = "") -> None:
        """Print a line that is not left out by --quiet, after all progress."""
        with self._locked():
            self._stop()
            self._write_log(text)
            self._show(text, style)

    def _stop(self) -> None:
        with self._locked():
            self._plain.clear()
            self._logged.clear()
            if self._live is not None:
                self._live.clear()

    def _show(self, text: str, style: str = "") -> None:
        with self._locked():
            styled = style and _has_color()
            text = f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if styled else text
            if self._live is not None:
                self._live.print(text)
            else:
                print(text, file=self._stream or sys.stderr, flush=True)

    def _write_log(self, text: str) -> None:
        if self._log is not None:
            log = self._log
            self._try_log(lambda: log.line(text))

    def _try_log(self, write: Callable[[], None]) -> None:
        try:
            write()
        except StorageError as error:
            if not self._log_failed:
                self._log_failed = True
                self._show(f"warning: {error.where}: {error.problem}; lines are missing in the log file", _WARNING)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # A thread that reports a signal before it ends the process does not wait for another one that hangs.
        acquired = self._lock.acquire(timeout=_LOCK_SECONDS)
        try:
            yield
        finally:
            if acquired:
                self._lock.release()


def report_interrupted(signal_name: str) -> None:
    """Print that a signal ended the command, whatever is in progress."""
    (_open[-1] if _open else ProgressBar()).interrupted(signal_name)


def _is_terminal() -> bool:
    return os.environ.get("TERM") != "dumb" and sys.stderr.isatty()


def _has_color() -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stderr.isatty() or os.environ.get("FORCE_COLOR", "") not in ("", "0")
