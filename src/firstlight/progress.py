"""Long work tells how far it is; drawing is the caller's business.

A room opens a ``task`` and advances it, or gives a ``notice`` where it decides something that
the user should know (a fallback, a reuse, a rollback). Whoever draws calls ``listen``. With no
listener, tasks cost almost nothing and notices go to the ``firstlight`` logger.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

logger = logging.getLogger("firstlight")


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a task, or a notice (``task`` is then empty).

    Attributes:
        task: name of the task, such as "encode".
        done: units done.
        total: units in all, or None where that is not known.
        unit: what is counted: "B", "documents", "steps", "tokens".
        text: a notice's words, or a task's detail.
        finished: the task is over.
        level: "info" or "warning", of a notice.
    """

    task: str = ""
    done: float = 0
    total: float | None = None
    unit: str = ""
    text: str = ""
    finished: bool = False
    level: str = "info"


Listener = Callable[[Event], None]
_listeners: list[Listener] = []


@contextlib.contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Send every event to ``listener`` while the context is open."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def notice(text: str, *, level: str = "info") -> None:
    """Tell the user something once: what was found and what is done about it."""
    for listener in _listeners:
        listener(Event(text=text, level=level))
    if not _listeners:
        logger.log(logging.WARNING if level == "warning" else logging.INFO, text)


def warn(text: str) -> None:
    """Tell the user something that may need his attention."""
    notice(text, level="warning")


class Task:
    """One piece of long work under way."""

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        self._event = Event(name, 0, total, unit)

    def advance(self, amount: float = 1, text: str = "") -> None:
        """Say that ``amount`` more units are done."""
        self._event = replace(self._event, done=self._event.done + amount, text=text or self._event.text)
        self._send()

    def finish(self) -> None:
        """Say that the work is over."""
        self._event = replace(self._event, finished=True)
        self._send()

    def _send(self) -> None:
        for listener in _listeners:
            listener(self._event)


@contextlib.contextmanager
def task(name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
    """Open a task; it is finished when the context closes, also by an error."""
    work = Task(name, total, unit)
    try:
        yield work
    finally:
        work.finish()
