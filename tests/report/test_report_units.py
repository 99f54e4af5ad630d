"""Figures as people read them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.report import units


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (units.count, 0, "0"),
        (units.count, 9999, "9,999"),
        (units.count, 12_345, "12.3 k"),
        (units.count, 999_700, "1 M"),
        (units.count, 6_885_120, "6.9 M"),
        (units.count, 1.75e11, "175 G"),
        (units.count, math.nan, "NaN"),
        (units.size, 0, "0 B"),
        (units.size, 999, "999 B"),
        (units.size, 453_360, "453 kB"),
        (units.size, 14_453_360, "14.5 MB"),
        (units.duration, 0.04, "0.0 s"),
        (units.duration, 9.94, "9.9 s"),
        (units.duration, 59.7, "1 min"),
        (units.duration, 192, "3 min 12 s"),
        (units.duration, 3600, "1 h"),
        (units.duration, 90_061, "1 d 1 h"),
        (units.duration, math.inf, "∞"),
        (units.figure, 2.50231, "2.5023"),
        (units.figure, 12.18, "12.180"),
        (units.figure, 4096, "4,096.0"),
        (units.figure, 0, "0.0000"),
        (units.figure, 0.00002, "2e-05"),
        (units.figure, -math.inf, "−∞"),
        (units.figure, 12_345_678, "1.23e+07"),
        (units.percent, 0.643, "64.3 %"),
        (units.percent, math.nan, "NaN"),
    ],
)
def test_written(write, value: float, text: str):
    assert plain(write(value)) == text


def test_fewer_digits_where_asked():
    assert [units.figure(v, 2) for v in (12.18, 608.1, 0.5)] == ["12.2", "608", "0.50"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (0.5, 0.5),
        ("Infinity", math.inf),
        ("-inf", -math.inf),
        (10**400, math.inf),
        (True, None),
        ("12", None),
        ("", None),
        (None, None),
        ([1], None),
    ],
)
def test_number(value: object, expected: float | None):
    assert units.number(value) == expected


def test_nan_as_a_string_is_a_figure():
    assert math.isnan(units.number("NaN") or 0)


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_float_can_be_written(value: float):
    for write in (units.count, units.size, units.duration, units.figure, units.percent):
        assert write(value)
