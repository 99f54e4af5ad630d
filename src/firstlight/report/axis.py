"""A chart axis: linear or logarithmic range, round ticks and short labels."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_FREE_AT_ENDS = (0.08, 0.18)  # of the width, for the labels of the first and the last value
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values, never empty, that maps values to positions between 0 and 1."""

    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Array, *, log: bool, pad: float, from_zero: bool = False) -> "Axis":
        """Return an axis that covers ``values``.

        Args:
            values: finite numbers; empty gives 0 to 1.
            log: logarithmic, unless a value is not positive.
            pad: padding at both ends, as a fraction of the range.
            from_zero: start a linear axis at 0 if no value is negative.
        """
        if not len(values):
            return cls(0.0, 1.0, log=False)
        low, high = float(np.min(values)), float(np.max(values))
        if log and low > 1e-300:
            a, b = math.log10(low), math.log10(high)
            margin = (b - a) * pad if b - a > 1e-9 else 0.1
            if not margin:
                return cls(low, high, log=True)
            return cls(10 ** max(a - margin, -307.0), 10 ** min(b + margin, 307.0), log=True)
        if from_zero and low >= 0:
            return cls(0.0, high * (1 + pad) if high > 1e-300 else 1.0, log=False)
        span = high - low
        if span <= max(1e-9 * max(abs(low), abs(high)), 1e-300):
            margin = 0.05 * max(abs(low), abs(high)) or 0.5
            return cls(low - margin, high + margin, log=False) if margin > 1e-300 else cls(-0.5, 0.5, log=False)
        return cls(low - pad * span, high + pad * span, log=False)

    def positions(self, values: Array) -> Array:
        """Map values to positions: 0 at the low end, 1 at the high end."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return np.asarray(np.clip((np.log10(values) - low) / (high - low), 0, 1))
        return np.asarray(np.clip((values - self.low) / (self.high - self.low), 0, 1))

    def position(self, value: float) -> float:
        """Map one value to its position."""
        return float(self.positions(np.array([value], dtype=np.float64))[0])

    def rounded(self, n_ticks: int) -> "Axis":
        """Return the axis extended at both ends to the next tick, so that the ends have labels."""
        if self.log:
            factors = self._log_factors()
            low, high = _log_bound(self.low, factors, up=False), _log_bound(self.high, factors, up=True)
            return Axis(low, high, log=True) if low < self.low < self.high < high else self
        step = _round_step(self.low, self.high, n_ticks)
        low, high = (round_to(v / step) * step for v, round_to in ((self.low, _floor), (self.high, _ceil)))
        return Axis(low, high, log=False) if math.isfinite(high - low) and low <= self.low < self.high <= high else self

    def ticks_with_ends(self, n_ticks: int) -> list[tuple[float, str]]:
        """Return the two ends, and the round values between them whose labels do not touch those of the ends."""
        low, high = _FREE_AT_ENDS
        inner = [(v, text) for v, text in self.ticks(n_ticks) if low < self.position(v) < 1 - high]
        return [(self.low, f"{self.low:,.10g}"), *inner, (self.high, f"{self.high:,.10g}")]

    def ticks(self, n_ticks: int) -> list[tuple[float, str]]:
        """Return approximately ``n_ticks`` round values within the range, with their labels."""
        values = self._log_ticks(n_ticks) if self.log else []
        if len(values) < 2:
            values = _round_values(self.low, self.high, n_ticks)
        return list(zip(values, labels(values), strict=True))

    def _log_factors(self) -> tuple[int, ...]:
        decades = math.ceil(math.log10(self.high)) - math.floor(math.log10(self.low))
        return (1, 2, 5) if decades <= 2 else (1,)

    def _log_ticks(self, n_ticks: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        decades = last - first
        every = max(1, -(-decades // (n_ticks + 1)))
        values = [factor * 10.0**k for k in range(first, last + 1, every) for factor in self._log_factors()]
        return [v for v in values if self.low <= v <= self.high]


def labels(values: list[float]) -> list[str]:
    """Format ticks with one common unit and no more digits than needed to distinguish them."""
    largest = max((abs(v) for v in values), default=0.0)
    if len(values) > 2 and all(v > 0 for v in values) and largest / min(values) >= 99:
        return [_format_alone(v) for v in values]
    if largest < 1e-3 or largest >= 1e15:
        for digits in range(3, 17):
            texts = ["0" if v == 0 else _scientific(v, digits) for v in values]
            if len(set(texts)) == len(set(values)):
                break
        return texts
    scale, unit = next(((s, u) for s, u in _UNITS if largest >= 10 * s or (s > 1e3 and largest >= s)), (1.0, ""))
    for digits in range(16):
        texts = [f"{v / scale:,.{digits}f}" for v in values]
        close = all(
            math.isclose(float(t.replace(",", "")), v / scale, rel_tol=1e-6) for t, v in zip(texts, values, strict=True)
        )
        if close and len(set(texts)) == len(set(values)):
            break
    return ["0" if v == 0 else f"{text}{unit}" for v, text in zip(values, texts, strict=True)]


def _format_alone(value: float) -> str:
    if value >= 1e15 or value < 1e-3:
        return _scientific(value)
    scale, unit = next(((s, u) for s, u in _UNITS if value >= s), (1.0, ""))
    return f"{value / scale:g}{unit}"


def _scientific(value: float, digits: int = 3) -> str:
    head, _, exponent = f"{value:.{digits}e}".partition("e")
    return f"{head.rstrip('0').rstrip('.')}e{int(exponent)}"


def _round_values(low: float, high: float, n_ticks: int) -> list[float]:
    step = _round_step(low, high, n_ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Multiplying by an integer and rounding avoids 0.30000000000000004.
    digits = max(0, 1 - math.floor(math.log10(step)))
    values = [round(k * step, digits) if digits < 300 else k * step for k in range(first, last + 1)]
    return values if len(values) > 1 else _round_values(low, high, 2 * n_ticks)


def _round_step(low: float, high: float, n_ticks: int) -> float:
    raw = (high - low) / n_ticks
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def _floor(ratio: float) -> int:
    return math.floor(ratio + 1e-9)


def _ceil(ratio: float) -> int:
    return math.ceil(ratio - 1e-9)


def _log_bound(value: float, factors: tuple[int, ...], *, up: bool) -> float:
    """Return the nearest of ``factors`` times a power of ten above or below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    found = [factor * power * m for m in (0.1, 1, 10) for factor in factors]
    return min(v for v in found if v > value) if up else max(v for v in found if v < value)
