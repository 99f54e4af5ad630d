"""Line charts as inline SVG: drawn once here, readable without scripts, with a read-out where scripts run.

The drawing stretches with the window while its words do not: the SVG holds only lines, and tick
labels are text placed by percent. A series of any length becomes at most ``MOST_POINTS`` points:
of each slice of the axis its lowest and its highest, so that no spike is ever hidden. A figure that
is not finite leaves a gap in the line and a red mark on the axis.
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
from firstlight.report.units import figure, number

MOST_POINTS = 1000
_MOST_BAD, _MOST_MARKS = 100, 200  # places that can be told apart
_WIDTH, _HEIGHT = 1000, 400  # units of the drawing, not pixels
_LARGEST = 1e300  # beyond this, spans overflow: as good as infinite

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        x: positions, in any order.
        y: figures; "NaN", "inf" and the like may be strings; None is no figure at all.
        look: a line, a faint line behind others, or a line with a dot a point.
        mark_min: show where it is lowest.
    """

    name: str
    x: Sequence[float] | Array
    y: Sequence[float | str | None] | Array
    look: Literal["line", "faint", "dots"] = "line"
    mark_min: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal dashed line with words."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line where something happened; ``bad`` makes it red, ``label`` stands above it."""

    x: float
    text: str
    bad: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class _Points:
    """A series in order of x; ``kept`` are the indices that are drawn, ``holes`` counts gaps before each point."""

    series: Series
    x: Array
    y: Array
    finite: Array
    kept: Array
    holes: Array


def line_chart(
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
) -> Markup:
    """Return a chart as HTML.

    Args:
        title: what the figures are.
        series: the lines, the first one undermost.
        x_label: what the positions are; the read-outs of charts with the same label move together.
        y_label: the unit of the figures.
        log_x: logarithmic axis; linear all the same where a position is not positive.
        log_y: the same for figures.
        from_zero: let the figures' axis begin at 0 where none is negative.
        levels: lines across; one outside the figures' range widens it.
        marks: lines upright; one just beyond the last position widens the axis, those further out are left out.
        source: the file that the figures come from.
    """
    ordered = [_ordered(s) for s in series]
    xs = np.concatenate([x for _, x, _ in ordered]) if ordered else np.empty(0)
    ys = np.concatenate([y[np.isfinite(y)] for _, _, y in ordered]) if ordered else np.empty(0)
    across = _across(xs, marks, log=log_x)
    upright = Axis.over(np.concatenate([ys, [level.y for level in levels]]), log=log_y, pad=0.05, from_zero=from_zero)
    lines = [_sampled(s, x, y, across) for s, x, y in ordered]
    return Markup(  # noqa: S704 - rendered with escaping on
        environment()
        .get_template("chart.html")
        .render(
            title=title,
            source=source,
            x_label=x_label,
            y_label=y_label,
            width=_WIDTH,
            height=_HEIGHT,
            empty=not len(ys),
            n_points=len(xs),
            x_ticks=[(_percent(across.place(v)), text) for v, text in across.ticks(5)],
            y_ticks=[(_percent(1 - upright.place(v)), text) for v, text in upright.ticks(5)],
            lines=[_line(p, across, upright) for p in lines],
            levels=_levels(levels, upright),
            marks=_marks(marks, across) if len(xs) else [],
            bad=_bad(lines, across),
            data=_data(lines, across, upright, x_label),
        )
    )


def _across(xs: Array, marks: Sequence[Mark], *, log: bool) -> Axis:
    """Return the axis of positions; what ends a run happens after its last figure, and belongs on the axis."""
    axis = Axis.over(xs, log=log, pad=0.0)
    end = axis.high + 0.1 * (axis.high - axis.low)
    beyond = [mark.x for mark in marks if axis.high < mark.x <= end]
    return Axis.over(np.append(xs, beyond), log=log, pad=0.0) if beyond and len(xs) else axis


def numbers(values: Sequence[float | str | None] | Array) -> Array:
    """Return figures as float64: what is not finite, or too large to draw, as NaN or an infinity."""
    if isinstance(values, np.ndarray):
        found = values.astype(np.float64)
    else:
        read = [number(v) for v in values]
        found = np.array([math.nan if v is None else v for v in read], dtype=np.float64)
    found[found > _LARGEST] = math.inf
    found[found < -_LARGEST] = -math.inf
    return found


def downsample(places: Array, y: Array, most: int = MOST_POINTS) -> Array:
    """Return indices of at most ``most`` finite points, in order: the ends, and each slice's lowest and highest.

    Args:
        places: ascending positions on the axis, 0 to 1.
        y: figures, of which those that are not finite are passed over.
        most: 4 or more.
    """
    finite = np.flatnonzero(np.isfinite(y))
    if len(finite) <= most:
        return finite
    n_slices = (most - 2) // 2
    edges = np.searchsorted(places[finite], np.linspace(0, 1, n_slices + 1)[1:-1])
    kept = {int(finite[0]), int(finite[-1])}
    for part in np.split(finite, edges):
        if len(part):
            kept.add(int(part[np.argmin(y[part])]))
            kept.add(int(part[np.argmax(y[part])]))
    return np.array(sorted(kept))


def _ordered(series: Series) -> tuple[Series, Array, Array]:
    x, y = numbers(series.x), numbers(series.y)
    assert len(x) == len(y), f"series {series.name}: {len(x)} positions, {len(y)} figures"
    there = np.isfinite(x)
    if not isinstance(series.y, np.ndarray):
        there &= np.array([v is not None for v in series.y], dtype=bool)
    x, y = x[there], y[there]
    order = np.argsort(x, kind="stable")
    return series, x[order], y[order]


def _sampled(series: Series, x: Array, y: Array, across: Axis) -> _Points:
    finite = np.isfinite(y)
    return _Points(series, x, y, finite, downsample(across.places(x), y), np.cumsum(~finite))


def _line(points: _Points, across: Axis, upright: Axis) -> dict[str, Any]:
    x, y = points.x[points.kept], points.y[points.kept]
    left, top = across.places(x) * _WIDTH, (1 - upright.places(y)) * _HEIGHT
    holes = points.holes[points.kept]
    breaks = np.flatnonzero(np.diff(holes)) + 1
    pieces = []
    for part in np.split(np.arange(len(x)), breaks):
        dots = [f"{left[i]:.1f} {top[i]:.1f}" for i in part]
        # A point alone between two gaps is a line of almost no length, which round ends make a dot.
        pieces.append(f"M{'L'.join(dots)}" if len(dots) > 1 else f"M{dots[0]}h.01" if dots else "")
    lowest = int(np.argmin(y)) if points.series.mark_min and len(y) else None
    return {
        "name": points.series.name,
        "look": points.series.look,
        "path": "".join(pieces),
        "dots": "".join(f"M{a:.1f} {b:.1f}h.01" for a, b in zip(left, top, strict=True))
        if points.series.look == "dots" and len(x) <= 60
        else "",
        "least": None
        if lowest is None
        else {
            "at": f"M{left[lowest]:.1f} {top[lowest]:.1f}h.01",
            "text": f"lowest {figure(y[lowest])} at {x[lowest]:,.10g}",
        },
    }


def _levels(levels: Sequence[Level], upright: Axis) -> list[dict[str, Any]]:
    """Place levels from the top down; words go below their line where another's words are just above."""
    placed: list[dict[str, Any]] = []
    for level in sorted(levels, key=lambda level: -level.y):
        top = 1 - upright.place(level.y)
        near = bool(placed) and top - placed[-1]["top"] < 0.07
        placed.append({"at": _percent(top), "top": top, "text": level.text, "below": near or top < 0.07})
    return placed


def _marks(marks: Sequence[Mark], across: Axis) -> list[dict[str, Any]]:
    """Place marks, one where several would be one line, a bad one before others; labels where there is room."""
    found: dict[int, list[Mark]] = {}
    for mark in marks:
        if across.low <= mark.x <= across.high:
            found.setdefault(round(across.place(mark.x) * _MOST_MARKS), []).append(mark)
    placed: list[dict[str, Any]] = []
    free = -math.inf
    for _, here in sorted(found.items(), key=lambda pair: pair[0]):
        mark = next((m for m in here if m.bad), here[0])
        place = across.place(mark.x)
        labels = list(dict.fromkeys(m.label for m in here if m.label))
        label = "–".join([labels[0], *labels[-1:]] if len(labels) > 1 else labels) if place >= free else ""
        free = place + 0.02 * (1 + len(label)) if label else free
        placed.append(
            {
                "left": round(place * _WIDTH, 1),
                "at": _percent(place),
                "label": label,
                "bad": mark.bad,
                "text": "\n".join(f"{m.x:,.10g}: {m.text}" for m in here[:5]),
            }
        )
    return placed


def _bad(lines: list[_Points], across: Axis) -> dict[str, Any]:
    """Where figures are not finite: marks, thinned to what can be told apart, and the whole count in words."""
    x = np.concatenate([p.x[~p.finite] for p in lines]) if lines else np.empty(0)
    y = np.concatenate([p.y[~p.finite] for p in lines]) if lines else np.empty(0)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    places, firsts = np.unique(np.round(across.places(x) * _MOST_BAD), return_index=True)
    first = ", ".join(f"{v:,.10g}" for v in x[:5])
    return {
        "marks": [
            (round(float(place) * _WIDTH / _MOST_BAD, 1), f"{x[i]:,.10g}: {figure(float(y[i]))}")
            for place, i in zip(places, firsts, strict=True)
        ],
        "n": len(x),
        "text": first + (f" and {len(x) - 5:,} more" if len(x) > 5 else ""),
    }


def _data(lines: list[_Points], across: Axis, upright: Axis, x_label: str) -> Markup:
    """Return what the read-out needs, as JSON that may stand inside a script element."""
    table = {
        "label": x_label,
        "x": [across.low, across.high, across.log],
        "y": [upright.low, upright.high, upright.log],
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
    return Markup(text)  # noqa: S704 - no character of it can end the element


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
