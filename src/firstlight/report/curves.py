"""The curves of a run: what was logged by step, and the loss by position in the window."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from markupsafe import Markup

from firstlight.report import non_text, task_curves, tasks
from firstlight.report.chart import Level, Mark, Series, line_chart
from firstlight.report.column import Column
from firstlight.report.events import marks as event_marks
from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import thin
from firstlight.report.units import format_number, to_float

_MAX_EVALUATIONS = 40
_MAX_BASELINE = 100.0  # nats; far above that of any vocabulary: a damaged value would squash the curves
_SOURCE = "metrics.jsonl"

_Look = Literal["line", "faint", "dots"]
_Line = tuple[str, Column, _Look]


def charts(files: RunFiles) -> list[Markup]:
    """Draw the curves that were logged; always the loss."""
    marks = event_marks(files)
    plain = [Mark(m.x, m.text, m.bad) for m in marks]
    lines, of, unit = _loss_lines(files), tasks.unit_of_count(files), tasks.loss_unit(files)
    drawn = [_loss_chart("Loss", unit, lines, marks, _baselines(files))]
    start = _zoom_start(lines[0][1] if len(lines[0][1]) else files.column("valid_loss"))
    if start is not None:
        drawn.append(
            _loss_chart("Loss, zoomed in", unit, [(name, c.since(start), look) for name, c, look in lines], plain)
        )
    drawn += task_curves.charts(files, plain)
    for name, heading, label, log, levels in (
        ("lr", "Learning rate", "", False, []),
        ("grad_norm", "Gradient norm", "before clipping", True, _clip_level(files)),
        (f"{of}s_per_second", "Throughput", f"{of}s per second", False, []),
        ("mfu", "Model FLOPs utilisation (MFU)", "fraction of peak", False, []),
    ):
        column = files.column(name)
        if len(column):
            series = Series(heading.lower() if name != "mfu" else "MFU", column.steps, column.values)
            drawn.append(
                line_chart(
                    heading,
                    [series],
                    y_label=label,
                    log_y=log,
                    from_zero=not log,
                    levels=levels,
                    marks=plain,
                    source=_SOURCE,
                )
            )
    return [*drawn, *_position_chart(files)]


def _loss_lines(files: RunFiles) -> list[_Line]:
    valid = files.column("valid_loss")
    of_tasks = files.column("task_loss")  # without the language-model loss, as the validation loss is
    training = ("training loss", files.column("loss")) if not len(of_tasks) else ("training loss of the task", of_tasks)
    return [
        (*training, "faint" if len(valid) else "line"),
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


def _zoom_start(loss: Column) -> float | None:
    """Return the step at which a zoomed-in chart starts, or None if the first fifth does not dwarf the rest."""
    if len(loss) < 20:
        return None
    start = float(loss.steps[0] + 0.2 * (loss.steps[-1] - loss.steps[0]))
    whole, late = (c.values[np.isfinite(c.values)] for c in (loss, loss.since(start)))
    return start if len(late) and np.ptp(late) < 0.5 * np.ptp(whole) else None


def _baselines(files: RunFiles) -> list[Level]:
    """Return the losses of the baselines; before the end of a run only that of a uniform guess is known."""
    found = []
    uniform = uniform_guess(files)
    if uniform is not None:
        found.append(Level(uniform[0], f"uniform guess {uniform[1]}"))
    for name in ("unigram", "position"):
        loss = to_float(find(files.evaluation, "baselines", name, "loss"))
        if loss is not None and 0 < loss < _MAX_BASELINE:
            found.append(Level(loss, f"{name} {format_number(loss, 2)}"))
    return found


def uniform_guess(files: RunFiles) -> tuple[float, str] | None:
    """Return the loss of a uniform guess over the vocabulary, and how it is computed: ``ln 4,096 = 8.32``."""
    if tasks.unit_of_count(files) == "row":
        return None
    loss = to_float(find(files.evaluation, "baselines", "uniform", "loss"))
    V = to_float(find(files.manifest, "vocab_size"))
    if loss is None and non_text.unit(files) != "dim":  # the vocabulary of images has classes besides pixel values
        loss = math.log(V) if V is not None and 1 < V < 1e12 else None
    if loss is None or not 0 < loss < _MAX_BASELINE:
        return None
    if V is None or V <= 1 or not math.isclose(math.log(V), loss, rel_tol=1e-3):
        return loss, format_number(loss, 2)
    return loss, f"ln {V:,.0f} = {format_number(loss, 2)}"


def _clip_level(files: RunFiles) -> list[Level]:
    """Return the norm that gradients are clipped to, if they are."""
    limit = to_float(find(files.settings, "optim", "clip_norm"))
    return [Level(limit, f"clipping threshold {limit:g} (optim.clip_norm)")] if limit and 0 < limit < math.inf else []


def _position_chart(files: RunFiles) -> list[Markup]:
    """Draw the validation loss by position in the window, if the last evaluation has it."""
    table = find(files.evaluation, "loss_by_position")
    rows = [row for row in table if isinstance(row, dict)] if isinstance(table, list) else []
    points = [(to_float(row.get("last")), to_float(row.get("loss"))) for row in rows]
    found = [(x, y) for x, y in points if x is not None and y is not None and x > 0]
    if len(found) < 2:
        return []
    what = "pixel" if non_text.unit(files) == "dim" else "token"
    hint = (
        "Pixels are in raster order."
        if what == "pixel"
        else "If the curve still falls at the right, a longer window (model.block_size) would help."
    )
    return [
        line_chart(
            "Loss by position in the window",
            [Series("validation loss", [x for x, _ in found], [y for _, y in found], "dots")],
            x_label=f"position of the {what} in the window",
            y_label=tasks.loss_unit(files),
            log_x=True,
            source="evaluation.json",
            note=f"At the end of training. The more precedes a {what}, the easier it is to predict. {hint}",
        )
    ]


def evaluations(files: RunFiles) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return headings, and rows of step, validation loss and what else was evaluated, thinned out if there are many."""
    valid = files.column("valid_loss")
    indices = thin(range(len(valid)), _MAX_EVALUATIONS)
    names = {"perplexity": "perplexity", non_text.key(files): f"bits per {non_text.UNITS[non_text.unit(files)]}"}
    names |= {key: key for key in task_curves.main_metrics(files)}
    shown = {key: heading for key, heading in names.items() if len(files.column(key))}
    other_columns = [_by_step(files.column(key)) for key in shown]
    rows = []
    for i in indices:
        step = float(valid.steps[i])
        others = ("–" if (value := column.get(step)) is None else format_number(value) for column in other_columns)
        rows.append((f"{step:,.10g}", format_number(float(valid.values[i])), *others))
    return ["step", "validation loss", *shown.values()], rows


def _by_step(column: Column) -> dict[float, float]:
    return dict(zip(column.steps.tolist(), column.values.tolist(), strict=True))
