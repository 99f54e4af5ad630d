"""Ticks are round, within the axis, apart from each other, and say what they stand for."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from firstlight.report.axis import Axis, labels

FIGURES = st.floats(-1e300, 1e300, allow_nan=False, allow_infinity=False)
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def read(label: str) -> float:
    text = label.replace(",", "")
    return float(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else float(text)


@settings(max_examples=300, deadline=None)
@example([4.21052631631579e16], False, False, 2)
@example([4.329072727937365e16, 4.330527272727802e16], False, False, 2)
@given(st.lists(FIGURES, max_size=6), st.booleans(), st.booleans(), st.integers(2, 8))
def test_an_axis_of_anything_holds_it_and_has_ticks(values: list[float], log: bool, from_zero: bool, about: int):
    axis = Axis.over(np.array(values), log=log, pad=0.05, from_zero=from_zero)
    assert axis.low < axis.high
    assert all(axis.low <= v <= axis.high for v in values)
    places = axis.positions(np.array(sorted(values)))
    assert np.all((places >= 0) & (places <= 1))
    assert np.all(np.diff(places) >= 0)
    ticks = axis.ticks(about)
    assert 2 <= len(ticks) <= 3 * about + 3
    assert [v for v, _ in ticks] == sorted({v for v, _ in ticks})
    assert len({label for _, label in ticks}) == len(ticks)
    for value, label in ticks:
        assert axis.low - 1e-9 * abs(axis.low) <= value <= axis.high + 1e-9 * abs(axis.high)
        assert read(label) == pytest.approx(value, rel=1e-3, abs=1e-12 * (axis.high - axis.low))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, ["0", "20", "40", "60", "80", "100"]),
        (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (1.9, 4.3, ["2.0", "2.5", "3.0", "3.5", "4.0"]),
        (0, 2000, ["0", "500", "1,000", "1,500", "2,000"]),
        (0, 26_000, ["0", "10k", "20k"]),
        (0, 4_100_000, ["0", "1M", "2M", "3M", "4M"]),
        (-3, 3, ["-2", "0", "2"]),
        (0, 2e-5, ["0", "5e-6", "1e-5", "1.5e-5", "2e-5"]),
    ],
)
def test_linear_ticks(low: float, high: float, expected: list[str]):
    assert [label for _, label in Axis(low, high, log=False).ticks(5)] == expected


def test_logarithmic_ticks():
    assert [label for _, label in Axis(0.8, 1200, log=True).ticks(5)] == ["1", "10", "100", "1k"]
    assert [label for _, label in Axis(0.15, 2.2, log=True).ticks(5)] == ["0.2", "0.5", "1.0", "2.0"]
    assert [label for _, label in Axis(1, 1e12, log=True).ticks(5)] == ["1", "100", "10k", "1M", "100M", "10G", "1T"]


def test_logarithmic_axis_needs_positive_values():
    assert Axis.over(np.array([1.0, 10.0]), log=True, pad=0).log
    assert not Axis.over(np.array([0.0, 10.0]), log=True, pad=0).log
    axis = Axis.over(np.array([1.0, 100.0]), log=True, pad=0)
    assert axis.position(10.0) == pytest.approx(0.5)


def test_from_zero_starts_at_zero_unless_a_value_is_negative():
    assert Axis.over(np.array([5.0, 6.0]), log=False, pad=0.05, from_zero=True).low == 0
    assert Axis.over(np.array([-5.0, 6.0]), log=False, pad=0.05, from_zero=True).low < -5


def test_labels_tell_large_close_values_apart():
    texts = labels([1_000_000.0, 1_000_000.5, 1_000_001.0])
    assert len(set(texts)) == 3
