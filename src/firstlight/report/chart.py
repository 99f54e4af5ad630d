"""Line charts as inline SVG: readable without scripts, with interactive values where scripts run.

The lines stretch with the window while the text does not: tick labels are text placed by percent. A series of any
length is reduced to at most ``MAX_POINTS`` points, the lowest and the highest of each bin of the axis, so that no
spike is hidden. A non-finite value leaves a gap in the line and a red mark on the axis.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from firstlight.report.axis import Axis
from firstlight.report.template_env import environment
from firstlight.report.units import format_number, to_float

MAX_POINTS = 1000
_MAX_BAD, _MAX_MARKS = 100, 200  # positions that can be distinguished
_WIDTH, _HEIGHT = 1000, 400  # SVG units, not pixels
_Y_TICKS, _N_COLORS = 6, 4
_MAX_VALUE = 1e300  # above this, ranges overflow: treated as infinite

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        x: positions, in any order.
        y: values; non-finite ones may be strings such as "NaN"; None: no value.
        look: a line, a faint line behind others, or a line with a dot per point.
        mark_min: mark the minimum.
    """

    name: str
    x: Sequence[float] | Array
    y: Sequence[float | str | None] | Array
    look: Literal["line", "faint", "dots"] = "line"
    mark_min: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal dashed line with a label."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at an event; ``bad`` makes it red, ``label`` is shown above it."""

    x: float
    text: str
    bad: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class _Points:
    """A series in order of x; ``kept`` are the indices drawn, ``holes`` counts the gaps before each point."""

    series: Series
    x: Array
    y: Array
    finite: Array
    kept: Array
    holes: Array


def line_chart(  # noqa: PLR0913 - each has a default
    title: str,
    series: Iterable[Series],
    *,
    x_label: str = "step",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    source: str = "",
    note: str = "",
) -> Markup:
    """Render a chart as HTML.

    Args:
        title: heading.
        series: the lines, the first one at the back.
        x_label: label of the x axis; the cursors of charts with the same label move together.
        y_label: unit of the values.
        log_x: logarithmic x axis, unless a position is not positive.
        log_y: the same for the y axis.
        from_zero: start the y axis at 0 if no value is negative.
        levels: horizontal lines; the y axis covers them.
        marks: vertical lines; one just beyond the last position extends the x axis, others beyond it are left out.
        source: the file that the values come from.
        note: a sentence below the chart.
    """
    ordered = [_sort_series(s) for s in series]
    xs = np.concatenate([x for _, x, _ in ordered]) if ordered else np.empty(0)
    ys = np.concatenate([y[np.isfinite(y)] for _, _, y in ordered]) if ordered else np.empty(0)
    x_axis = _x_axis(xs, marks, log=log_x)
    y_values = np.concatenate([ys, [level.y for level in levels]])
    y_axis = Axis.over(y_values, log=log_y, pad=0.02, from_zero=from_zero).rounded(_Y_TICKS)
    lines = [_downsample_series(s, x, y, x_axis) for s, x, y in ordered]
    return Markup(  # noqa: S704 - rendered with escaping on
        environment()
        .get_template("chart.html")
        .render(
            title=title,
            source=source,
            note=note,
            x_label=x_label,
            x_unit=_with_scale(x_label, x_axis),
            y_unit=_with_scale(y_label, y_axis),
            width=_WIDTH,
            height=_HEIGHT,
            empty=not len(ys),
            n_points=len(xs),
            x_ticks=[(_percent(x_axis.position(v)), text) for v, text in x_axis.ticks_with_ends(5)],
            y_ticks=[(_percent(1 - y_axis.position(v)), text) for v, text in y_axis.ticks(_Y_TICKS)],
            lines=_lines(lines, x_axis, y_axis),
            levels=_levels(levels, y_axis),
            marks=_marks(marks, x_axis) if len(xs) else [],
            bad=_bad(lines, x_axis),
            data=_data(lines, x_axis, y_axis, x_label),
        )
    )


def _with_scale(label: str, axis: Axis) -> str:
    """Add to the label of an axis that it is logarithmic."""
    return ", ".join(filter(None, (label, "log scale" if axis.log else "")))


def _x_axis(xs: Array, marks: Sequence[Mark], *, log: bool) -> Axis:
    """Return the x axis; the event that ends a run comes after its last value, and is still shown."""
    if len(xs) and np.ptp(xs) == 0:  # one position alone has an axis of one step
        xs = np.append(xs, xs[0] + 1)
    axis = Axis.over(xs, log=log, pad=0.0)
    end = axis.high + 0.1 * (axis.high - axis.low)
    beyond = [mark.x for mark in marks if axis.high < mark.x <= end]
    return Axis.over(np.append(xs, beyond), log=log, pad=0.0) if beyond and len(xs) else axis


def to_floats(values: Sequence[float | str | None] | Array) -> Array:
    """Convert values to float64; those that are not finite or too large to draw become NaN or infinity."""
    if isinstance(values, np.ndarray):
        floats = values.astype(np.float64)
    else:
        numbers = [to_float(v) for v in values]
        floats = np.array([math.nan if v is None else v for v in numbers], dtype=np.float64)
    floats[floats > _MAX_VALUE] = math.inf
    floats[floats < -_MAX_VALUE] = -math.inf
    return floats


def downsample(positions: Array, y: Array, max_points: int = MAX_POINTS) -> Array:
    """Return the indices of at most ``max_points`` finite points, in order: the ends, and each bin's extremes.

    Args:
        positions: ascending positions on the axis, 0 to 1.
        y: values; non-finite ones are ignored.
        max_points: 4 or more.
    """
    finite = np.flatnonzero(np.isfinite(y))
    if len(finite) <= max_points:
        return finite
    n_bins = (max_points - 2) // 2
    edges = np.searchsorted(positions[finite], np.linspace(0, 1, n_bins + 1)[1:-1])
    kept = {int(finite[0]), int(finite[-1])}
    for part in np.split(finite, edges):
        if len(part):
            kept.add(int(part[np.argmin(y[part])]))
            kept.add(int(part[np.argmax(y[part])]))
    return np.array(sorted(kept))


def _sort_series(series: Series) -> tuple[Series, Array, Array]:
    x, y = to_floats(series.x), to_floats(series.y)
    assert len(x) == len(y), f"series {series.name}: {len(x)} positions, {len(y)} values"
    has_value = np.isfinite(x)
    if not isinstance(series.y, np.ndarray):
        has_value &= np.array([v is not None for v in series.y], dtype=bool)
    x, y = x[has_value], y[has_value]
    order = np.argsort(x, kind="stable")
    return series, x[order], y[order]


def _downsample_series(series: Series, x: Array, y: Array, x_axis: Axis) -> _Points:
    finite = np.isfinite(y)
    return _Points(series, x, y, finite, downsample(x_axis.positions(x), y), np.cumsum(~finite))


def _lines(points: Sequence[_Points], x_axis: Axis, y_axis: Axis) -> list[dict[str, Any]]:
    """Return the lines, each with its colour; faint ones have one of their own."""
    lines, n = [], 0
    for p in points:
        lines.append({**_line(p, x_axis, y_axis), "color": n % _N_COLORS})
        n += p.series.look != "faint"
    return lines


def _line(points: _Points, x_axis: Axis, y_axis: Axis) -> dict[str, Any]:
    x, y = points.x[points.kept], points.y[points.kept]
    left, top = x_axis.positions(x) * _WIDTH, (1 - y_axis.positions(y)) * _HEIGHT
    holes = points.holes[points.kept]
    breaks = np.flatnonzero(np.diff(holes)) + 1
    pieces = []
    for part in np.split(np.arange(len(x)), breaks):
        dots = [f"{left[i]:.1f} {top[i]:.1f}" for i in part]
        # A single point between two gaps is a line of almost no length, which round line caps turn into a dot.
        pieces.append(f"M{'L'.join(dots)}" if len(dots) > 1 else f"M{dots[0]}h.01" if dots else "")
    lowest = int(np.argmin(y)) if points.series.mark_min and len(y) else None
    return {
        "name": points.series.name,
        "look": points.series.look,
        "path": "".join(pieces),
        "dots": "".join(f"M{a:.1f} {b:.1f}h.01" for a, b in zip(left, top, strict=True))
        if points.series.look == "dots" and len(x) <= 60
        else "",
        "minimum": None
        if lowest is None
        else {
            "at": f"M{left[lowest]:.1f} {top[lowest]:.1f}h.01",
            "text": f"min {format_number(y[lowest])} at {x[lowest]:,.10g}",
        },
    }


def _levels(levels: Sequence[Level], y_axis: Axis) -> list[dict[str, Any]]:
    """Place levels from top to bottom; a label goes below its line if another label is just above."""
    placed: list[dict[str, Any]] = []
    for level in sorted(levels, key=lambda level: -level.y):
        top = 1 - y_axis.position(level.y)
        near = bool(placed) and top - placed[-1]["top"] < 0.07
        placed.append({"at": _percent(top), "top": top, "text": level.text, "below": near or top < 0.07})
    return placed


def _marks(marks: Sequence[Mark], x_axis: Axis) -> list[dict[str, Any]]:
    """Place marks: one for several at the same position, bad ones first; labels where there is space."""
    found: dict[int, list[Mark]] = {}
    for mark in marks:
        if x_axis.low <= mark.x <= x_axis.high:
            found.setdefault(round(x_axis.position(mark.x) * _MAX_MARKS), []).append(mark)
    placed: list[dict[str, Any]] = []
    free = -math.inf
    for _, marks_here in sorted(found.items(), key=lambda pair: pair[0]):
        mark = next((m for m in marks_here if m.bad), marks_here[0])
        position = x_axis.position(mark.x)
        labels = list(dict.fromkeys(m.label for m in marks_here if m.label))
        label = "–".join([labels[0], *labels[-1:]] if len(labels) > 1 else labels) if position >= free else ""
        free = position + 0.02 * (1 + len(label)) if label else free
        placed.append(
            {
                "left": round(position * _WIDTH, 1),
                "at": _percent(position),
                "label": label,
                "bad": mark.bad,
                "text": "\n".join(f"{m.x:,.10g}: {m.text}" for m in marks_here[:5]),
            }
        )
    return placed


def _bad(lines: list[_Points], x_axis: Axis) -> dict[str, Any]:
    """Return the marks of non-finite values, thinned to distinguishable positions, with their count and steps."""
    x = np.concatenate([p.x[~p.finite] for p in lines]) if lines else np.empty(0)
    y = np.concatenate([p.y[~p.finite] for p in lines]) if lines else np.empty(0)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    positions, firsts = np.unique(np.round(x_axis.positions(x) * _MAX_BAD), return_index=True)
    first = ", ".join(f"{v:,.10g}" for v in x[:5])
    return {
        "marks": [
            (round(float(position) * _WIDTH / _MAX_BAD, 1), f"{x[i]:,.10g}: {format_number(float(y[i]))}")
            for position, i in zip(positions, firsts, strict=True)
        ],
        "n": len(x),
        "text": first + (f" and {len(x) - 5:,} more" if len(x) > 5 else ""),
    }


def _data(lines: list[_Points], x_axis: Axis, y_axis: Axis, x_label: str) -> Markup:
    """Return the data of the interactive values, as JSON that is safe inside a script element."""
    table = {
        "label": x_label,
        "x": [x_axis.low, x_axis.high, x_axis.log],
        "y": [y_axis.low, y_axis.high, y_axis.log],
        "series": [
            {
                "name": p.series.name,
                "x": [float(f"{v:.10g}") for v in p.x[p.kept]],
                "y": [float(f"{v:.5g}") for v in p.y[p.kept]],
            }
            for p in lines
        ],
    }
    text = (
        json.dumps(table, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )
    return Markup(text)  # noqa: S704 - no character in it can end the element


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2f}"
