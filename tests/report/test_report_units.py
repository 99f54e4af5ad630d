"""Numbers formatted for people."""

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
        (units.format_count, 0, "0"),
        (units.format_count, 9999, "9,999"),
        (units.format_count, 12_345, "12.3 k"),
        (units.format_count, 999_700, "1 M"),
        (units.format_count, 6_885_120, "6.9 M"),
        (units.format_count, 1.75e11, "175 G"),
        (units.format_count, math.nan, "NaN"),
        (units.format_bytes, 0, "0 B"),
        (units.format_bytes, 999, "999 B"),
        (units.format_bytes, 453_360, "453 kB"),
        (units.format_bytes, 14_453_360, "14.5 MB"),
        (units.format_duration, 0.04, "0.0 s"),
        (units.format_duration, 9.94, "9.9 s"),
        (units.format_duration, 59.7, "1 min"),
        (units.format_duration, 192, "3 min 12 s"),
        (units.format_duration, 3600, "1 h"),
        (units.format_duration, 90_061, "1 d 1 h"),
        (units.format_duration, math.inf, "∞"),
        (units.format_number, 2.50231, "2.5023"),
        (units.format_number, 12.18, "12.180"),
        (units.format_number, 4096, "4,096.0"),
        (units.format_number, 0, "0.0000"),
        (units.format_number, 0.00002, "2e-05"),
        (units.format_number, -math.inf, "−∞"),
        (units.format_number, 12_345_678, "1.23e+07"),
        (units.format_percent, 0.643, "64.3 %"),
        (units.format_percent, math.nan, "NaN"),
    ],
)
def test_formats(write, value: float, text: str):
    assert plain(write(value)) == text


def test_fewer_digits():
    assert [units.format_number(v, 2) for v in (12.18, 608.1, 0.5)] == ["12.2", "608", "0.50"]


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
def test_to_float(value: object, expected: float | None):
    assert units.to_float(value) == expected


def test_nan_as_a_string_is_a_number():
    assert math.isnan(units.to_float("NaN") or 0)


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_float_can_be_formatted(value: float):
    for write in (
        units.format_count,
        units.format_bytes,
        units.format_duration,
        units.format_number,
        units.format_percent,
    ):
        assert write(value)
