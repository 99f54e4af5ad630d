"""Intervals, paired comparison, metrics, over numpy and well-kept libraries."""

from firstlight.statistics.intervals import ratio_interval

__all__ = ["ratio_interval"]
