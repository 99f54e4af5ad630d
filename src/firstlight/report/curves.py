"""The curves of a run, its events, and its samples."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from firstlight.report import non_text, tasks
from firstlight.report.chart import Level, Mark, Series, line_chart
from firstlight.report.column import Column
from firstlight.report.run_files import RunFiles, Table, find
from firstlight.report.text import printable, thin, to_text
from firstlight.report.units import format_number, to_float

_BAD_KINDS = {"rollback", "not-finite", "failed", "spike", "damaged"}
_MAX_EVENTS, _MAX_SAMPLES, _MAX_EVALUATIONS = 200, 9, 40
_MAX_CHARACTERS_LAST, _MAX_CHARACTERS = 6000, 2000
_MAX_BASELINE = 100.0  # nats; far above that of any vocabulary: a damaged value would squash the curves
_SOURCE = "metrics.jsonl"

_Look = Literal["line", "faint", "dots"]
_Line = tuple[str, Column, _Look]


@dataclass(frozen=True, slots=True)
class Event:
    """An event: its number in the curves, its step, kind, description and time."""

    number: int
    step: str
    kind: str
    text: str
    time: str
    bad: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated sample; ``left_out`` counts the characters that are not shown."""

    step: str
    prompt: str
    text: str
    left_out: int


def charts(files: RunFiles) -> list[Markup]:
    """Draw the curves that were logged; always the loss."""
    marks = _marks(files)
    plain = [Mark(m.x, m.text, m.bad) for m in marks]
    lines, of, unit = _loss_lines(files), tasks.unit_of_count(files), tasks.loss_unit(files)
    drawn = [_loss_chart("Loss", unit, lines, marks, _baselines(files))]
    start = _zoom_start(files)
    if start is not None:
        drawn.append(
            _loss_chart("Loss, zoomed in", unit, [(name, c.since(start), look) for name, c, look in lines], plain)
        )
    for name, heading, label, log in (
        ("lr", "Learning rate", "", False),
        ("grad_norm", "Gradient norm", "before clipping", True),
        (f"{of}s_per_second", "Throughput", f"{of}s per second", False),
        ("mfu", "Model FLOPs utilisation (MFU)", "fraction of peak", False),
    ):
        column = files.column(name)
        if len(column):
            series = Series(heading.lower() if name != "mfu" else "MFU", column.steps, column.values)
            drawn.append(
                line_chart(heading, [series], y_label=label, log_y=log, from_zero=not log, marks=plain, source=_SOURCE)
            )
    return drawn


def _loss_lines(files: RunFiles) -> list[_Line]:
    valid = files.column("valid_loss")
    language = to_float(find(files.settings, "finetune", "lm_weight")) if tasks.unit_of_count(files) == "row" else None
    training = "training loss" if not language else f"training loss + {format_number(language)} × language-model loss"
    return [
        (training, files.column("loss"), "faint" if len(valid) else "line"),
        ("validation loss", valid, "dots"),
        ("validation loss of EMA weights", files.column("valid_loss_average"), "dots"),
    ]


def _loss_chart(
    title: str, unit: str, lines: list[_Line], marks: Sequence[Mark], levels: Sequence[Level] = ()
) -> Markup:
    series = [
        Series(name, column.steps, column.values, look, mark_min=name == "validation loss")
        for name, column, look in lines
        if len(column)
    ]
    return line_chart(title, series, y_label=unit, levels=levels, marks=marks, source=_SOURCE)


def _zoom_start(files: RunFiles) -> float | None:
    """Return the step at which a zoomed-in chart starts, or None if the first fifth does not dwarf the rest."""
    loss = files.column("loss") if len(files.column("loss")) else files.column("valid_loss")
    if len(loss) < 20:
        return None
    start = float(loss.steps[0] + 0.2 * (loss.steps[-1] - loss.steps[0]))
    whole, late = (c.values[np.isfinite(c.values)] for c in (loss, loss.since(start)))
    return start if len(late) and np.ptp(late) < 0.5 * np.ptp(whole) else None


def _baselines(files: RunFiles) -> list[Level]:
    found = []
    for name in ("uniform", "unigram", "position"):
        loss = to_float(find(files.evaluation, "baselines", name, "loss"))
        if loss is not None and 0 < loss < _MAX_BASELINE:
            found.append(Level(loss, f"{name} {format_number(loss, 2)}"))
    return found


def _numbered(files: RunFiles) -> list[tuple[int, Table]]:
    """Return the events that were read, each with its number in the file."""
    return [
        (n + (files.events_left_out if n > files.first_events else 0), event) for n, event in enumerate(files.events, 1)
    ]


def _marks(files: RunFiles) -> list[Mark]:
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


def samples(files: RunFiles) -> list[Sample]:
    """Return samples spread over the run, the latest last and at greater length."""
    if non_text.unit(files) == "dim":  # shown as images
        return []
    chosen = thin(files.samples, _MAX_SAMPLES)
    return [
        _sample(table, _MAX_CHARACTERS_LAST if i == len(chosen) - 1 else _MAX_CHARACTERS)
        for i, table in enumerate(chosen)
    ]


def _sample(table: Table, max_length: int) -> Sample:
    step = to_float(table.get("step"))
    prompt, text = (_text(table.get(name)) for name in ("prompt", "text"))
    return Sample(
        "?" if step is None else f"{step:,.10g}",
        printable(prompt[:max_length]),
        printable(text[:max_length]),
        max(0, len(prompt) - max_length) + max(0, len(text) - max_length),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def evaluations(files: RunFiles) -> list[tuple[str, ...]]:
    """Return rows of step, validation loss, perplexity and bits, thinned out if there are many."""
    valid = files.column("valid_loss")
    indices = thin(range(len(valid)), _MAX_EVALUATIONS)
    other_columns = [_by_step(files.column(name)) for name in ("perplexity", non_text.key(files))]
    rows = []
    for i in indices:
        step = float(valid.steps[i])
        others = ("–" if (value := column.get(step)) is None else format_number(value) for column in other_columns)
        rows.append((f"{step:,.10g}", format_number(float(valid.values[i])), *others))
    return rows


def _by_step(column: Column) -> dict[float, float]:
    return dict(zip(column.steps.tolist(), column.values.tolist(), strict=True))
