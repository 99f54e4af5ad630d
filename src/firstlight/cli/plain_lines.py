"""Progress as whole lines, for files, pipes and logs: now and then a line of each task that takes long."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from firstlight.cli.progress_text import full_line
from firstlight.progress import Event

_FIRST_SECONDS, _LAST_SECONDS = 5.0, 60.0  # between lines
_GROWTH = 0.05  # of the time that the task has taken so far
_SECONDS_BEFORE_NAME = 2.0


@dataclass(slots=True)
class _Shown:
    """What was shown of a task: when, and how much was done."""

    started: float
    time: float | None = None
    done: float = -1
    timer: threading.Timer | None = None


class PlainLines:
    """Prints a line of each task every five seconds, of long tasks once a minute.

    Training shows its first step and its last one as well. A task that cannot count is named if it takes more than two
    seconds.

    Args:
        write: prints a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._tasks: dict[str, _Shown] = {}

    def update(self, event: Event) -> None:
        """Print the line of an event, if one is due."""
        now = time.monotonic()
        shown = self._tasks.get(event.task)
        if shown is None:
            if event.finished:
                return
            shown = self._tasks[event.task] = _Shown(now)
            if not (event.unit or event.total or event.done):
                shown.timer = threading.Timer(_SECONDS_BEFORE_NAME, self._name, [event])
                shown.timer.daemon = True
                shown.timer.start()
                return
        if shown.timer is not None and (event.done or event.finished):
            shown.timer.cancel()
        if event.finished:
            del self._tasks[event.task]
            is_shown = shown.time is not None or (event.task == "train" and bool(event.text))
            if is_shown and not event.failed:
                self._print(shown, event, " done" if event.task != "train" else "")
        elif self._is_due(shown, event, now):
            shown.time = now
            self._print(shown, event)

    def clear(self) -> None:
        """Forget all tasks."""
        for shown in self._tasks.values():
            if shown.timer is not None:
                shown.timer.cancel()
        self._tasks.clear()

    def _is_due(self, shown: _Shown, event: Event, now: float) -> bool:
        if event.task == "train" and event.total and event.done >= event.total:
            return False  # the last line follows when the last evaluation is known
        if shown.time is None and event.task == "train" and event.text:
            return True
        interval = min(_LAST_SECONDS, max(_FIRST_SECONDS, _GROWTH * (now - shown.started)))
        return now - (shown.started if shown.time is None else shown.time) >= interval

    def _print(self, shown: _Shown, event: Event, end: str = "") -> None:
        if end or event.done != shown.done:
            self._write(full_line(event, end))
        shown.done = event.done

    def _name(self, event: Event) -> None:
        if event.task in self._tasks:
            self._write(full_line(event))
