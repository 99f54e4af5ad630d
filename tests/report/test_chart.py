"""Charts hide nothing: spikes survive thinning, figures that are not finite are marked, words are escaped."""

import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.report import Level, Mark, Series, line_chart
from firstlight.report.chart import MAX_POINTS, downsample, to_floats

ANY = st.floats(allow_nan=True, allow_infinity=True)


def svg(chart: str) -> ET.Element:
    return ET.fromstring(re.search(r"<svg class=\"plot\".*</svg>", chart, re.DOTALL)[0])  # type: ignore[index]


def data(chart: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', chart, re.DOTALL)[1])  # type: ignore[index]


@settings(deadline=None)
@given(st.integers(4, 40), st.lists(ANY, max_size=200), st.randoms(use_true_random=False))
def test_thinning_keeps_the_ends_and_each_slices_extremes(most: int, values: list[float], dice):
    y = np.array(values)
    x = np.sort(np.array([dice.random() for _ in values]))
    kept = downsample(x, y, most)
    finite = np.flatnonzero(np.isfinite(y))
    assert len(kept) <= most
    assert set(kept) <= set(finite)
    assert list(kept) == sorted(set(kept))
    if len(finite) <= most:
        assert list(kept) == list(finite)
        return
    assert kept[0] == finite[0]
    assert kept[-1] == finite[-1]
    n_slices = (most - 2) // 2
    edges = np.linspace(0, 1, n_slices + 1)[1:-1]
    of_slice = np.searchsorted(edges, x, side="right")
    for i in finite:
        beside = [y[k] for k in kept if of_slice[k] == of_slice[i]]
        assert min(beside) <= y[i] <= max(beside)


def test_a_lone_spike_among_a_million_is_drawn():
    y = np.full(1_000_000, 2.0)
    y[654_321] = 9.0
    chart = line_chart("loss", [Series("train", np.arange(1_000_000), y)])
    series = data(chart)["series"][0]
    assert len(series["x"]) <= MAX_POINTS
    assert series["y"][series["x"].index(654_321)] == 9.0
    assert len(chart) < 60_000


def test_non_finite_values_are_gaps_and_marks():
    chart = line_chart("loss", [Series("train", [1, 2, 3, 4, 5], [1.0, 2.0, "NaN", 2.0, "Infinity"])])
    root = svg(chart)
    path = next(e for e in root.iter() if e.tag == "path" and "line" in e.get("class", ""))
    assert path.get("d", "").count("M") == 2  # before and after the gap
    holes = [e for e in root.iter() if e.get("class") == "hole"]
    assert [e.find("title").text for e in holes] == ["3: NaN", "5: ∞"]  # type: ignore[union-attr]
    assert "2 non-finite values, at step 3, 5." in chart
    assert data(chart)["series"][0]["x"] == [1, 2, 4]


def test_only_non_finite_values():
    chart = line_chart("loss", [Series("train", [1, 2], ["NaN", "NaN"])])
    assert "2 non-finite values" in chart
    assert "No figures" not in chart


def test_many_non_finite_values_are_counted():
    chart = line_chart("loss", [Series("train", np.arange(1_000_000), np.full(1_000_000, np.nan))])
    assert "1,000,000 non-finite values, at step 0, 1, 2, 3, 4 and 999,995 more." in chart
    assert len(chart) < 30_000


def test_none_is_neither_a_point_nor_a_gap():
    chart = line_chart("loss", [Series("train", [1, 2, 3], [1.0, None, 3.0])])
    assert "Not finite" not in chart
    assert data(chart)["series"][0]["x"] == [1, 3]


def test_an_empty_chart_says_so():
    for series in ([], [Series("train", [], [])], [Series("train", [1, 2], [None, None])]):
        assert "No data was logged" in line_chart("loss", series)


def test_marks_are_drawn_within_the_axis_and_share_a_line_where_they_would_cover_each_other():
    marks = [Mark(50, "resume", label="1"), Mark(50, "rollback", bad=True, label="2"), Mark(500, "outside", label="3")]
    root = svg(line_chart("loss", [Series("train", [0, 100], [1.0, 2.0])], marks=marks))
    drawn = [e for e in root.iter() if "mark" in e.get("class", "").split()]
    assert [e.get("class") for e in drawn] == ["mark bad"]
    assert drawn[0].get("d", "").startswith("M500.0 0")
    assert drawn[0].find("title").text == "50: resume\n50: rollback"  # type: ignore[union-attr]
    flags = [e for e in root.iter() if e.get("class", "").startswith("flag")]
    assert [(e.text, e.get("x")) for e in flags] == [("1–2", "50.00%")]


def test_mark_just_beyond_the_last_value_is_drawn():
    marks = [Mark(105, "failed", bad=True, label="1"), Mark(120, "far", label="2")]
    chart = line_chart("loss", [Series("train", [0, 100], [1.0, 2.0])], marks=marks)
    assert data(chart)["x"][1] == 105
    assert 'class="flag bad" x="100.00%"' in chart
    assert "far" not in chart


def test_ten_thousand_marks_stay_small():
    marks = [Mark(x, "not-finite: " + "x" * 100, bad=True, label=str(x)) for x in range(10_000)]
    chart = line_chart("loss", [Series("train", [0, 10_000], [1.0, 2.0])], marks=marks)
    assert len(chart) < 250_000
    places = [float(x) for x in re.findall(r'class="flag bad" x="([\d.]+)%"', chart)]
    assert min(b - a for a, b in zip(places, places[1:], strict=False)) > 2


def test_levels_widen_the_axis_and_labels_do_not_overlap():
    chart = line_chart("loss", [Series("a", [0, 1], [1.0, 2.0])], levels=[Level(8.0, "uniform"), Level(7.9, "unigram")])
    assert data(chart)["y"][1] > 8
    words = {e.text: e.get("dy") for e in svg(chart).iter() if e.get("class") == "level" and e.tag == "text"}
    assert words["unigram"] == "1.15em"


def test_minimum_is_marked():
    chart = line_chart("loss", [Series("valid", [10, 20, 30], [3.0, 2.5, 2.75], "dots", mark_min=True)])
    assert "min 2.5000 at 20" in chart
    least = next(e for e in svg(chart).iter() if e.get("class") == "minimum")
    assert least.get("d", "").startswith("M500.0 ")


NASTY = "</script><script>alert(1)</script>\"'&<b>"


def test_text_is_escaped():
    chart = line_chart(
        NASTY,
        [Series(NASTY, [1, 2], [1.0, "NaN"])],
        x_label=NASTY,
        y_label=NASTY,
        source=NASTY,
        levels=[Level(1.0, NASTY)],
        marks=[Mark(1.5, NASTY, label=NASTY)],
    )
    assert "<b>" not in chart
    assert chart.count("<script") == 1
    assert data(chart)["series"][0]["name"] == NASTY
    svg(chart)


@settings(deadline=None)
@given(
    st.lists(st.tuples(ANY, st.one_of(ANY, st.none(), st.sampled_from(["NaN", "-Infinity"]))), max_size=12),
    st.booleans(),
)
def test_no_values_break_a_chart(points: list, log: bool):
    series = Series("a", [x for x, _ in points], [y for _, y in points], "dots", mark_min=True)
    chart = line_chart("t", [series], log_x=log, log_y=log, marks=[Mark(x, "m", label="1") for x, _ in points[:3]])
    if "<svg" in chart:
        svg(chart)
        assert not re.search(r'd="[^"]*(nan|inf)', chart)


@pytest.mark.parametrize("bad", [1e301, 10**400, "inf"])
def test_what_is_too_large_to_draw_counts_as_infinite(bad: object):
    assert to_floats([1.0, bad]).tolist() == [1.0, math.inf]  # type: ignore[list-item]
