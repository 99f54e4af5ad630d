"""Labelled tasks of a fine-tuning run: metrics, confusion, calibration, the worst errors, what was forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact, words
from firstlight.report.units import figure, number, percent

_MOST_CLASSES = 30


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a confusion: its count, its share of the true class, and whether it is a right answer."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task on one side of its data.

    Attributes:
        name: the task's, and the side.
        metric: its own metric with value and interval, in words.
        others: further metrics in words.
        labels: of rows and columns of the confusion.
        confusion: rows of cells, or none.
        calibration: confidence, share that was right, rows; in words.
        calibration_error: in words, or empty.
        worst: where, true, said, probability; in words.
        notes: what was noticed in the data.
    """

    name: str
    metric: str
    others: str
    labels: list[str]
    confusion: list[list[Cell]]
    calibration: list[tuple[str, str, str]]
    calibration_error: str
    worst: list[tuple[str, str, str, str]]
    notes: list[str]


def counts(files: RunFiles) -> str:
    """Return what the run's loss and its counters are of: rows where heads answer, else tokens."""
    kinds = {str(find(task, "kind")) for task in files.tasks}
    return "row" if kinds - {"text", "chat"} else "token"


def unit(files: RunFiles) -> str:
    """Return what a loss is counted in: some heads' is squared error, not nats."""
    return "nats a token" if counts(files) == "token" else "mean over rows"


def key_figures(files: RunFiles) -> list[Fact]:
    """Return each task's own metric, on test where it was measured there, else on valid."""
    facts = []
    tables = find(files.evaluation, "tasks")
    for name in tables if isinstance(tables, Mapping) else ():
        side = "test" if find(files.evaluation, "test", name) else "valid"
        table = find(files.evaluation, "test" if side == "test" else "tasks", name)
        value, low, high = (number(find(table, key)) for key in ("value", "low", "high"))
        note = f"{words(find(table, 'metric'), 40)}, {side}"
        note += f"; 95 %: {figure(low)} to {figure(high)}" if low is not None and high is not None else ""
        facts.append(Fact(words(name, 60), _figure(value), note))
    return facts


def views(files: RunFiles) -> list[TaskView]:
    """Return every task on valid, then on test."""
    labels = {str(find(task, "name")): [words(name, 60) for name in find(task, "labels") or []] for task in files.tasks}
    found = []
    for key, side in (("tasks", "valid"), ("test", "test")):
        tables = find(files.evaluation, key)
        for name, table in (tables or {}).items() if isinstance(tables, Mapping) else ():
            notes = find(files.evaluation, "notes", name) if side == "valid" else None
            found.append(_view(f"{words(name, 60)}, {side}", table, labels.get(name, []), notes))
    return found


def forgetting(files: RunFiles) -> str:
    """Say how the loss on the pre-training text changed, or nothing where that was not measured."""
    before = number(find(files.evaluation, "forgetting", "before"))
    after = number(find(files.evaluation, "forgetting", "after"))
    if before is None or after is None:
        return ""
    return (
        f"On the valid split that the model was pre-trained with, its loss was {figure(before)} before and is "
        f"{figure(after)} after: {figure(after - before)} nats a token were forgotten."
    )


def _view(name: str, table: Any, labels: list[str], notes: Any) -> TaskView:
    value, low, high = (number(find(table, key)) for key in ("value", "low", "high"))
    n = number(find(table, "n"))
    metric = words(find(table, "metric"), 40)
    said = f"{metric} {_figure(value)}"
    if low is not None and high is not None:
        said += f" (95 % interval {_figure(low)} to {_figure(high)})"
    said += f" on {int(n):,} answers" if n is not None else ""
    others = find(table, "others")
    further = ", ".join(
        f"{words(k, 40)} {_figure(number(v))}"
        for k, v in (others if isinstance(others, Mapping) else {}).items()
        if k != metric
    )
    bins = find(table, "calibration", "bins") or []
    error = number(find(table, "calibration", "error"))
    return TaskView(
        name,
        said,
        further,
        labels,
        _confusion(find(table, "confusion")),
        [(percent(b[0]), percent(b[1]), f"{int(b[2]):,}") for b in bins],
        "" if error is None else percent(error),
        [
            (
                words(find(w, "where"), 200),
                words(find(w, "true"), 60),
                words(find(w, "predicted"), 60),
                "" if number(find(w, "probability")) is None else percent(find(w, "probability")),
            )
            for w in find(table, "worst") or []
        ],
        [words(note, 500) for note in notes or []],
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else figure(value)


def _confusion(table: Any) -> list[list[Cell]]:
    if not isinstance(table, list) or len(table) > _MOST_CLASSES:
        return []
    return [
        [Cell(int(count), count / max(1, sum(row)), i == j) for j, count in enumerate(row)]
        for i, row in enumerate(table)
    ]
