"""The one line of a terminal that shows what is in progress, and everything else that is printed above it."""

import os
import time
from collections.abc import Callable
from typing import Any, TextIO

from firstlight.cli.progress_text import columns_of, live_line
from firstlight.progress import Event

_SECONDS_BETWEEN_DRAWS = 0.1
_ERASE_BELOW = "\x1b[J"


class LiveLine:
    """Draws the task that was opened last on the last line of a terminal.

    The cursor rests at the start of that line. A terminal that becomes narrower moves the end of a line to the next
    one, if it wraps lines again: everything from the cursor on is then erased, whatever the terminal does. Otherwise
    only carriage returns and spaces are written, which notebooks understand as well.

    Args:
        stream: of the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tasks: dict[str, Event] = {}
        self._drawn = 0  # columns
        self._columns = 0  # of the terminal when that was drawn
        self._time = 0.0
        self._is_line_start = True  # after what others have printed

    def update(self, event: Event) -> None:
        """Show an event of a task; at most ten times a second, unless the task begins or ends."""
        is_new = event.task not in self._tasks
        if event.finished:
            if is_new:
                return
            del self._tasks[event.task]
        else:
            self._tasks[event.task] = event
        if is_new or event.finished or time.monotonic() - self._time >= _SECONDS_BETWEEN_DRAWS:
            self._draw()

    def print(self, text: str) -> None:
        """Print a permanent line above the live one."""
        self._stream.write(f"{self._erasure()}{'' if self._is_line_start else chr(10)}{text}\n")
        self._is_line_start = True
        self._draw()

    def before_output(self, text: str) -> None:
        """Make room for a text that somebody else is about to print."""
        self._stream.write(self._erasure())
        self._stream.flush()
        self._is_line_start = text.endswith("\n")

    def clear(self) -> None:
        """Erase the line and forget all tasks."""
        self._tasks.clear()
        self._draw()

    def _draw(self) -> None:
        self._time = time.monotonic()
        erasure, columns = self._erasure(), self._width()
        if not self._tasks or not self._is_line_start:
            self._stream.write(erasure)
        else:
            # The last column stays free: some terminals wrap a line that reaches it.
            line = live_line(list(self._tasks.values())[-1], columns - 1)
            self._stream.write(f"{erasure}{line}\r")
            self._drawn, self._columns = columns_of(line), columns
        self._stream.flush()

    def _erasure(self) -> str:
        """Return what erases the line; the next text then starts at its beginning."""
        if not self._drawn:
            return ""
        columns, drawn = self._width(), self._drawn
        self._drawn = 0
        if columns != self._columns:
            return f"\r{_ERASE_BELOW}"
        return f"\r{' ' * min(drawn, columns - 1)}\r"

    def _width(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        given = os.environ.get("COLUMNS", "")
        return columns or (int(given) if given.isdecimal() and int(given) else 80)


class ObservedStream:
    """A standard stream that announces every text before it is written.

    Args:
        stream: the stream.
        announce: called with the text.
    """

    def __init__(self, stream: TextIO, announce: Callable[[str], None]) -> None:
        self._stream = stream
        self._announce = announce

    def write(self, text: str) -> int:
        """Announce and write a text."""
        if isinstance(text, str) and text:  # click tries out whether a stream takes bytes
            self._announce(text)
        return self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        """Announce and write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
