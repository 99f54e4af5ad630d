"""Statistics: evaluation metrics, confidence intervals and tests of differences."""

from firstlight.statistics.intervals import ratio_interval, wilson_interval
from firstlight.statistics.metrics import ERRORS, METRICS, bootstrap_interval, calibration, confusion, paired_p_value

__all__ = [
    "ERRORS",
    "METRICS",
    "bootstrap_interval",
    "calibration",
    "confusion",
    "paired_p_value",
    "ratio_interval",
    "wilson_interval",
]
