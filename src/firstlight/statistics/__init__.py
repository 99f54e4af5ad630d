"""Intervals, paired comparison, metrics, over numpy and well-kept libraries."""

from firstlight.statistics.intervals import ratio_interval
from firstlight.statistics.metrics import METRICS, calibration, confusion, interval

__all__ = ["METRICS", "calibration", "confusion", "interval", "ratio_interval"]
