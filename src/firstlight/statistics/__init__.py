"""Statistics: evaluation metrics and bootstrap confidence intervals."""

from firstlight.statistics.intervals import ratio_interval
from firstlight.statistics.metrics import ERRORS, METRICS, bootstrap_interval, calibration, confusion

__all__ = ["ERRORS", "METRICS", "bootstrap_interval", "calibration", "confusion", "ratio_interval"]
