"""The curves of labelled tasks: their metrics, the parts of the training loss, and each task's validation loss."""

from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup

from firstlight.report.chart import Level, Mark, Series, line_chart
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import to_text
from firstlight.report.units import format_number, to_float

_SOURCE = "metrics.jsonl"
_MAX_TASKS = 20


def charts(files: RunFiles, marks: Sequence[Mark]) -> list[Markup]:
    """Draw a chart per metric with a line per task, and the losses if there are several; none without tasks."""
    names = [str(find(task, "name")) for task in files.tasks][:_MAX_TASKS]
    by_metric: dict[str, list[str]] = {}
    for name in names:
        if (metric := _main_metric(files, name)) is not None:
            by_metric.setdefault(metric, []).append(name)
    drawn = [_metric_chart(files, metric, of_metric, marks) for metric, of_metric in by_metric.items()]
    losses = [_series(files, f"{name}/loss", name, "dots") for name in names if len(files.column(f"{name}/loss"))]
    if len(losses) > 1:
        drawn.append(line_chart("Validation loss of each task", losses, marks=marks, source=_SOURCE))
    parts = (("task_loss", "task"), ("lm_loss", "language model"))
    found = [_series(files, key, name, "line") for key, name in parts if len(files.column(key))]
    if len(found) > 1:
        weight = to_float(find(files.settings, "finetune", "lm_weight"))
        how = "" if weight is None else f"training loss = task + {weight:g} × language model"
        drawn.append(line_chart("Training loss in parts", found, y_label=how, marks=marks, source=_SOURCE))
    return drawn


def main_metrics(files: RunFiles) -> list[str]:
    """Return the names in metrics.jsonl of each task's own metric, such as ``sst2/accuracy``."""
    names = [str(find(task, "name")) for task in files.tasks][:_MAX_TASKS]
    return [f"{name}/{metric}" for name in names if (metric := _main_metric(files, name)) is not None]


def _main_metric(files: RunFiles, task: str) -> str | None:
    """Return the metric of a task that selects the best checkpoint: the first one that an evaluation logs."""
    found = find(files.evaluation, "tasks", task, "metric")
    if isinstance(found, str) and len(files.column(f"{task}/{found}")):
        return found if found != "loss" else None
    names = (name.removeprefix(f"{task}/") for name in files.metrics if name.startswith(f"{task}/"))
    return next((name for name in names if name != "loss"), None)


def _metric_chart(files: RunFiles, metric: str, tasks: Sequence[str], marks: Sequence[Mark]) -> Markup:
    levels = []
    for task in tasks:
        value = to_float(find(files.evaluation, "tasks", task, "majority", "value"))
        if value is not None:
            of_task = f" of {to_text(task, 40)}" if len(tasks) > 1 else ""
            levels.append(Level(value, f"majority class{of_task} {format_number(value, 3)}"))
    title = metric.replace("_", " ")
    return line_chart(
        title[:1].upper() + title[1:],
        [_series(files, f"{task}/{metric}", task, "dots") for task in tasks],
        y_label="validation rows",
        levels=levels,
        marks=marks,
        source=_SOURCE,
    )


def _series(files: RunFiles, key: str, name: str, look: Literal["line", "dots"]) -> Series:
    column = files.column(key)
    return Series(to_text(name, 60), column.steps, column.values, look)
