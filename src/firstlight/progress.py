"""Progress events: long work reports its progress and notices; the caller decides how to show them.

A package opens a ``task`` and advances it, or sends a ``notice`` about a decision that matters to the user (a fallback,
a reuse, a rollback). The command line calls ``listen``. Without a listener, tasks cost almost nothing and notices go to
the ``firstlight`` logger.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from firstlight.errors import escape

logger = logging.getLogger("firstlight")


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of a task, or a notice (``task`` is then empty).

    Attributes:
        task: name of the task, such as "encode".
        done: units done.
        total: units in all, or None if unknown.
        unit: such as "B", "documents", "steps", "tokens".
        text: the notice; or details of the task, the most important first, with `` · `` between them: a narrow terminal
            leaves out the last ones.
        finished: whether the task is finished.
        failed: whether an error ended it.
        level: of a notice: "info", "warning", or "detail", which is shown with --verbose.
    """

    task: str = ""
    done: float = 0
    total: float | None = None
    unit: str = ""
    text: str = ""
    finished: bool = False
    failed: bool = False
    level: str = "info"


Listener = Callable[[Event], None]
_LOGGING_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "detail": logging.DEBUG}
_listeners: list[Listener] = []
_sent_once: list[set[str]] = []


@contextlib.contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Send every event to ``listener`` while the context is open."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def notice(text: str, *, level: str = "info") -> None:
    """Send a notice to the user: what was found, and what is done about it."""
    text = escape(text, keep="\n")
    if any(text in sent for sent in _sent_once):
        return
    for sent in _sent_once:
        sent.add(text)
    _send(Event(text=text, level=level))
    if not _listeners:
        logger.log(_LOGGING_LEVELS[level], text)


@contextlib.contextmanager
def each_notice_once(sent: set[str]) -> Iterator[None]:
    """Leave out notices that are in ``sent``, and add the others: for work that is repeated again and again."""
    _sent_once.append(sent)
    try:
        yield
    finally:
        _sent_once.pop()


def warn(text: str) -> None:
    """Send a notice that may need the user's attention."""
    notice(text, level="warning")


def detail(text: str) -> None:
    """Send a notice that is shown with ``--verbose``: a setting that was chosen automatically, or a duration."""
    notice(text, level="detail")


class Task:
    """A long operation in progress."""

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        self._event = Event(escape(name), 0, total, unit)

    def start(self) -> None:
        """Report that the task begins."""
        _send(self._event)

    def advance(self, amount: float = 1, text: str = "") -> None:
        """Report that ``amount`` more units are done."""
        self._event = replace(self._event, done=self._event.done + amount, text=escape(text) or self._event.text)
        _send(self._event)

    def finish(self, *, failed: bool = False) -> None:
        """Report that the task is finished, or that an error ended it."""
        self._event = replace(self._event, finished=True, failed=failed)
        _send(self._event)


def _send(event: Event) -> None:
    for listener in _listeners:
        with contextlib.suppress(OSError):  # a closed terminal or a full disk is no reason to end the work
            listener(event)


@contextlib.contextmanager
def task(name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
    """Open a task; it finishes when the context closes, also after an error.

    One that cannot count what is done has no ``unit`` and is never advanced, such as the loading of a library.
    """
    work = Task(name, total, unit)
    work.start()
    try:
        yield work
    except BaseException:
        work.finish(failed=True)
        raise
    work.finish()
