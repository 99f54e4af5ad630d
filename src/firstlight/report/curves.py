"""The curves of a run, what happened along them, and what it wrote on the way."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from firstlight.report import non_text, tasks
from firstlight.report.chart import Level, Mark, Series, line_chart
from firstlight.report.run_files import Column, RunFiles, Table, find
from firstlight.report.text import printable, thinned, words
from firstlight.report.units import figure, number

_BAD = {"rollback", "not-finite", "failed", "spike", "damaged"}
_MOST_EVENTS, _MOST_SAMPLES, _MOST_EVALUATIONS = 200, 9, 40
_LAST_CHARACTERS, _EARLIER_CHARACTERS = 6000, 2000
_LARGEST_BASELINE = 100.0  # nats; no vocabulary comes near it, and a damaged figure would squash the curves
_SOURCE = "metrics.jsonl"

_Look = Literal["line", "faint", "dots"]
_Line = tuple[str, Column, _Look]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: its number in the curves, when, and what."""

    number: int
    step: str
    kind: str
    text: str
    time: str
    bad: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that the model wrote; ``left_out`` counts the characters that are not shown."""

    step: str
    prompt: str
    text: str
    left_out: int


def charts(files: RunFiles) -> list[Markup]:
    """Draw the curves that have figures; the loss always."""
    marks = _marks(files.events)
    plain = [Mark(m.x, m.text, m.bad) for m in marks]
    lines, of, nats = _loss_lines(files), tasks.counts(files), tasks.unit(files)
    drawn = [_loss_chart("Loss", nats, lines, marks, _baselines(files))]
    start = _settled(files)
    if start is not None:
        drawn.append(
            _loss_chart("Loss, close up", nats, [(name, c.since(start), look) for name, c, look in lines], plain)
        )
    for name, heading, unit, log in (
        ("lr", "Learning rate", "", False),
        ("grad_norm", "Gradient norm", "before clipping", True),
        (f"{of}s_per_second", "Speed", f"{of}s a second", False),
        ("mfu", "Model FLOPs utilisation", "share of the peak", False),
    ):
        column = files.column(name)
        if len(column):
            label = heading.lower() if name != "mfu" else "MFU"
            one = Series(label, column.steps, column.values)
            drawn.append(
                line_chart(heading, [one], y_label=unit, log_y=log, from_zero=not log, marks=plain, source=_SOURCE)
            )
    return drawn


def _loss_lines(files: RunFiles) -> list[_Line]:
    valid = files.column("valid_loss")
    language = number(find(files.settings, "finetune", "lm_weight")) if tasks.counts(files) == "row" else None
    training = "training loss" if not language else f"training loss, with {figure(language)} × the language model's"
    return [
        (training, files.column("loss"), "faint" if len(valid) else "line"),
        ("valid loss", valid, "dots"),
        ("valid loss of averaged weights", files.column("valid_loss_average"), "dots"),
    ]


def _loss_chart(
    title: str, unit: str, lines: list[_Line], marks: Sequence[Mark], levels: Sequence[Level] = ()
) -> Markup:
    series = [
        Series(name, column.steps, column.values, look, mark_min=name == "valid loss")
        for name, column, look in lines
        if len(column)
    ]
    return line_chart(title, series, y_label=unit, levels=levels, marks=marks, source=_SOURCE)


def _settled(files: RunFiles) -> float | None:
    """Return the step from which a close-up pays: a fifth of the way, where the fall before dwarfs the rest."""
    loss = files.column("loss") if len(files.column("loss")) else files.column("valid_loss")
    if len(loss) < 20:
        return None
    start = float(loss.steps[0] + 0.2 * (loss.steps[-1] - loss.steps[0]))
    whole, late = (c.values[np.isfinite(c.values)] for c in (loss, loss.since(start)))
    return start if len(late) and np.ptp(late) < 0.5 * np.ptp(whole) else None


def _baselines(files: RunFiles) -> list[Level]:
    found = []
    for name in ("uniform", "unigram", "position"):
        loss = number(find(files.evaluation, "baselines", name, "loss"))
        if loss is not None and 0 < loss < _LARGEST_BASELINE:
            found.append(Level(loss, f"{name} {figure(loss, 2)}"))
    return found


def _marks(events: list[Table]) -> list[Mark]:
    found = []
    for n, event in enumerate(events, 1):
        step = number(event.get("step"))
        if step is not None and math.isfinite(step):
            kind = words(event.get("kind"), 40)
            found.append(Mark(step, f"{kind}: {words(event.get('text'), 200)}", kind in _BAD, str(n)))
    return found


def events(files: RunFiles) -> list[Event]:
    """Return the first and the last events where there are too many for a page."""
    found = []
    numbered = list(enumerate(files.events, 1))
    half = _MOST_EVENTS // 2
    for n, event in numbered if len(numbered) <= _MOST_EVENTS else [*numbered[:half], *numbered[-half:]]:
        step, kind = number(event.get("step")), words(event.get("kind"), 40)
        time = words(event["time"], 40).replace("T", " ") if "time" in event else ""
        shown = "–" if step is None else f"{step:,.10g}"
        found.append(Event(n, shown, kind, words(event.get("text"), 1000), time, kind in _BAD))
    return found


def events_summary(files: RunFiles) -> str:
    """Count the events by kind; empty where all are listed anyway."""
    if len(files.events) <= _MOST_EVENTS:
        return ""
    kinds = Counter(words(event.get("kind"), 40) for event in files.events).most_common(10)
    counts = ", ".join(f"{n:,} {kind}" for kind, n in kinds)
    return f"{len(files.events):,} events ({counts}); the first and the last {_MOST_EVENTS // 2} are listed."


def samples(files: RunFiles) -> list[Sample]:
    """Return some samples over the run, the newest last and at greater length."""
    if non_text.unit(files) == "dim":  # shown as pictures
        return []
    chosen = thinned(files.samples, _MOST_SAMPLES)
    return [
        _sample(table, _LAST_CHARACTERS if i == len(chosen) - 1 else _EARLIER_CHARACTERS)
        for i, table in enumerate(chosen)
    ]


def _sample(table: Table, most: int) -> Sample:
    step = number(table.get("step"))
    prompt, text = (_text(table.get(name)) for name in ("prompt", "text"))
    return Sample(
        "?" if step is None else f"{step:,.10g}",
        printable(prompt[:most]),
        printable(text[:most]),
        max(0, len(prompt) - most) + max(0, len(text) - most),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def evaluations(files: RunFiles) -> list[tuple[str, ...]]:
    """Return rows of step, valid loss, perplexity and bits; some of them where there are many."""
    valid = files.column("valid_loss")
    wanted = thinned(range(len(valid)), _MOST_EVALUATIONS)
    beside = [_by_step(files.column(name)) for name in ("perplexity", non_text.key(files))]
    rows = []
    for i in wanted:
        step = float(valid.steps[i])
        others = (table.get(step) for table in beside)
        rows.append(
            (f"{step:,.10g}", figure(float(valid.values[i])), *("–" if v is None else figure(v) for v in others))
        )
    return rows


def _by_step(column: Column) -> dict[float, float]:
    return dict(zip(column.steps.tolist(), column.values.tolist(), strict=True))
