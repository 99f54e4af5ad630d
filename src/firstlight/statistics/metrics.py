"""Metrics as the literature of each task has them, over numpy, with bootstrap intervals.

Accuracy, which is also micro F1 and exact match; F1 of one class and macro (van Rijsbergen 1979); Matthews' correlation
(1975; for several classes Gorodkin 2004); Pearson's and Spearman's. Calibration error as Guo et al. 2017 have it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the share that is right."""
    return float(np.mean(predicted == true))


def confusion(predicted: np.ndarray, true: np.ndarray, n: int) -> np.ndarray:
    """Return how often each true class (row) was predicted as each (column): (n, n)."""
    return np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return F1 of class 1: 0 where it is neither found nor there."""
    right = float(np.sum((predicted == 1) & (true == 1)))
    found, there = float(np.sum(predicted == 1)), float(np.sum(true == 1))
    return 2 * right / (found + there) if found + there else 0.0


def macro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the mean F1 over the classes that are there or were found."""
    classes = np.union1d(predicted, true)
    return float(np.mean([f1(predicted == c, true == c) for c in classes]))


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return Matthews' correlation; 0 where either side has one class only."""
    n = int(max(predicted.max(), true.max())) + 1
    table = confusion(predicted, true, n).astype(np.float64)
    rows, columns, whole = table.sum(1), table.sum(0), table.sum()
    above = np.trace(table) * whole - rows @ columns
    below = (whole**2 - columns @ columns) * (whole**2 - rows @ rows)
    return float(above / np.sqrt(below)) if below > 0 else 0.0


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return Pearson's correlation; 0 where either side is constant."""
    a, b = predicted - predicted.mean(), true - true.mean()
    below = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / below) if below > 0 else 0.0


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return Pearson's correlation of the ranks; equal values share their mean rank."""
    return pearson(_ranks(predicted), _ranks(true))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse].astype(np.float64)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "exact_match": accuracy,
    "micro_f1": accuracy,
}


def bootstrap_interval(
    metric: Metric,
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    level: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile interval of a metric by drawing rows again, with replacement (Efron 1979)."""
    generator = np.random.default_rng(seed)
    n = len(true)
    values = []
    for _ in range(n_bootstrap):
        rows = generator.integers(0, n, n)
        values.append(metric(predicted[rows], true[rows]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Return how often answers of each confidence are right, and the expected calibration error.

    Args:
        confidence: probability of the predicted class (N,).
        right: whether it was the true one (N,).
        bins: of equal width.
    """
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    told = np.bincount(place, confidence, bins) / np.maximum(counts, 1)
    true = np.bincount(place, right.astype(np.float64), bins) / np.maximum(counts, 1)
    error = float(np.sum(counts * np.abs(told - true)) / max(1, len(confidence)))
    rows = [[float(told[i]), float(true[i]), int(counts[i])] for i in range(bins) if counts[i]]
    return {"error": error, "bins": rows}
