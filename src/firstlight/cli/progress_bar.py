"""Show progress on stderr: bars in a terminal, otherwise a plain line every few seconds."""

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from firstlight.progress import Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SECONDS_BETWEEN_LINES = 5.0
_SUFFIXES = ("", "k", "M", "G", "T")


class ProgressBar:
    """A listener for progress events.

    In a terminal (or with FORCE_COLOR) tasks are bars that disappear when they are done; otherwise a long task prints
    a line every few seconds. Rich is imported when the first bar is shown.
    """

    def __init__(self) -> None:
        self._live = _is_terminal()
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._main = os.environ.get("RANK", "0") == "0"

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if not event.task:
            self._notice(event)
        elif not self._main:
            return
        elif self._live:
            self._bar(event)
        else:
            self._plain(event)

    def line(self, text: str, style: str = "dim") -> None:
        """Print one line on stderr, above any bar."""
        if self._progress is not None:
            self._progress.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
            return
        codes = {"dim": "2", "yellow": "33", "bold red": "1;31"}
        styled = self._live and "NO_COLOR" not in os.environ
        print(f"\x1b[{codes[style]}m{text}\x1b[0m" if styled else text, file=sys.stderr, flush=True)

    def error(self, message: str) -> None:
        """Print the error message of a failed command."""
        self._stop()
        self.line(" ".join(f"error: {message}".splitlines()), "bold red")

    def interrupted(self, signal_name: str) -> None:
        """Print that a signal ended the command; the first of several processes does."""
        self._stop()
        if self._main:
            self.line("interrupted" if signal_name == "SIGINT" else f"interrupted ({signal_name})")

    def _notice(self, event: Event) -> None:
        if event.level == "warning":
            self.line(f"warning: {event.text}", "yellow")
        elif self._main:
            self.line(event.text)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._bars.clear()

    def _bar(self, event: Event) -> None:
        if self._progress is None:
            if event.finished:
                return
            self._progress = _progress()
            self._progress.start()
        bar = self._bars.get(event.task)
        if bar is None:
            if event.finished:
                return
            bar = self._bars[event.task] = self._progress.add_task(event.task, total=event.total, figures="")
        figures = f"{_amount(event)}  {event.text}"
        self._progress.update(bar, completed=event.done, total=event.total, figures=figures)
        if not event.finished:
            return
        self._progress.remove_task(bar)
        del self._bars[event.task]
        if event.task == "train" and event.text:
            self.line(f"train: {figures}")
        if not self._bars:
            self._stop()

    def _plain(self, event: Event) -> None:
        now = time.monotonic()
        started = self._started.setdefault(event.task, now)
        # Training prints its first step immediately; other tasks only if they take long.
        first = started - _SECONDS_BETWEEN_LINES if event.task == "train" and event.text else started
        last = self._last_line.get(event.task, first)
        if event.finished:
            wanted = event.task in self._last_line
            self._last_line.pop(event.task, None)
            self._started.pop(event.task, None)
        else:
            wanted = now - last >= _SECONDS_BETWEEN_LINES
            if wanted:
                self._last_line[event.task] = now
        if wanted:
            done = " done" if event.finished and event.task != "train" else ""
            self.line(f"{event.task}: {_amount(event)}{done}{f'  {event.text}' if event.text else ''}")


def _is_terminal() -> bool:
    if os.environ.get("TERM") == "dumb":
        return False
    return sys.stderr.isatty() or os.environ.get("FORCE_COLOR", "") not in ("", "0")


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    name, figures = TextColumn("{task.description}"), TextColumn("{task.fields[figures]}")
    return Progress(
        name, BarColumn(bar_width=24), figures, console=Console(stderr=True), transient=True, refresh_per_second=8
    )


def _amount(event: Event) -> str:
    """Format how far a task is: ``3.2 of 10.0 MB``, ``120 of 2,000 steps``, ``17 documents``."""
    scale, suffix = 1.0, ""
    largest = max(event.done, event.total or 0)
    if event.unit == "B":
        for suffix in _SUFFIXES:  # noqa: B007 - the suffix it stops at is used below
            if largest < 1000 * scale or suffix == _SUFFIXES[-1]:
                break
            scale *= 1000

    def number(value: float) -> str:
        return f"{value / scale:,.1f}" if suffix else f"{value:,.0f}"

    unit = f" {suffix}{event.unit}" if event.unit else ""
    return f"{number(event.done)} of {number(event.total)}{unit}" if event.total else f"{number(event.done)}{unit}"
