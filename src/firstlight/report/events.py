"""The events of a run: a numbered list, and marks on the curves."""

import math
from dataclasses import dataclass

from firstlight.report.chart import Mark
from firstlight.report.run_files import RunFiles, Table
from firstlight.report.text import to_text
from firstlight.report.units import to_float

_BAD_KINDS = {"rollback", "not-finite", "failed", "spike", "damaged", "collapsed"}
_MAX_EVENTS = 200


@dataclass(frozen=True, slots=True)
class Event:
    """An event: its number in the curves, its step, kind, description and time."""

    number: int
    step: str
    kind: str
    text: str
    time: str
    bad: bool


def _numbered(files: RunFiles) -> list[tuple[int, Table]]:
    """Return the events that were read, each with its number in the file."""
    return [
        (n + (files.events_left_out if n > files.first_events else 0), event) for n, event in enumerate(files.events, 1)
    ]


def marks(files: RunFiles) -> list[Mark]:
    """Return a mark per event, with its number as label."""
    found = []
    for n, event in _numbered(files):
        step = to_float(event.get("step"))
        if step is not None and math.isfinite(step):
            kind = to_text(event.get("kind"), 40)
            found.append(Mark(step, f"{kind}: {to_text(event.get('text'), 200)}", kind in _BAD_KINDS, str(n)))
    return found


def events(files: RunFiles) -> list[Event]:
    """Return all events, or the first and the last ones if there are too many."""
    found = []
    numbered = _numbered(files)
    half = _MAX_EVENTS // 2
    for n, event in numbered if len(numbered) <= _MAX_EVENTS else [*numbered[:half], *numbered[-half:]]:
        step, kind = to_float(event.get("step")), to_text(event.get("kind"), 40)
        time = to_text(event["time"], 40).replace("T", " ") if "time" in event else ""
        shown = "–" if step is None else f"{step:,.10g}"
        found.append(Event(n, shown, kind, to_text(event.get("text"), 1000), time, kind in _BAD_KINDS))
    return found


def events_summary(files: RunFiles) -> str:
    """Count the events by kind; empty if all of them are listed."""
    if len(files.events) <= _MAX_EVENTS:
        return ""
    counts = ", ".join(f"{n:,} {kind}" for kind, n in files.event_kinds.most_common(10))
    return f"{files.event_kinds.total():,} events ({counts}); the first and the last {_MAX_EVENTS // 2} are listed."
