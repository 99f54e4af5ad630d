"""Evaluation metrics with bootstrap confidence intervals.

Accuracy, which is also micro F1 and exact match; F1 of one class and macro (van Rijsbergen 1979); Matthews' correlation
(1975; for several classes Gorodkin 2004); Pearson's and Spearman's. Calibration error as Guo et al. 2017 have it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the fraction of correct predictions."""
    return float(np.mean(predicted == true))


def confusion(predicted: np.ndarray, true: np.ndarray, n: int) -> np.ndarray:
    """Compute the confusion matrix: true classes in rows, predicted in columns, (n, n)."""
    return np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute F1 of class 1; 0 if it is neither predicted nor present."""
    true_positives = float(np.sum((predicted == 1) & (true == 1)))
    n_predicted, n_true = float(np.sum(predicted == 1)), float(np.sum(true == 1))
    total = n_predicted + n_true
    return 2 * true_positives / total if total else 0.0


def macro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the mean F1 over the classes that are present or predicted."""
    hits, n_predicted, n_true = _class_counts(predicted, true)
    total = n_predicted + n_true
    return float(np.mean(2 * hits[total > 0] / total[total > 0]))


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute Matthews' correlation; 0 if either side has only one class."""
    hits, n_predicted, n_true = _class_counts(predicted, true)
    whole = float(len(true))
    above = hits.sum() * whole - n_true @ n_predicted
    below = (whole**2 - n_predicted @ n_predicted) * (whole**2 - n_true @ n_true)
    return float(above / np.sqrt(below)) if below > 0 else 0.0


def _class_counts(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count each class: right predictions, all predictions, true labels.

    These are the diagonal and the margins of the confusion matrix, whose size is the square of the number of classes.
    """
    n = int(max(predicted.max(), true.max())) + 1
    counts = (np.bincount(values, minlength=n) for values in (true[predicted == true], predicted, true))
    hits, n_predicted, n_true = (found.astype(np.float64) for found in counts)
    return hits, n_predicted, n_true


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute Pearson's correlation; 0 if either side is constant."""
    a, b = predicted - predicted.mean(), true - true.mean()
    below = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / below) if below > 0 else 0.0


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute Spearman's correlation; equal values get their mean rank."""
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
    """Compute a percentile bootstrap interval of a metric, resampling rows with replacement (Efron 1979)."""
    generator = np.random.default_rng(seed)
    n = len(true)
    values = []
    for _ in range(n_bootstrap):
        rows = generator.integers(0, n, n)
        values.append(metric(predicted[rows], true[rows]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Compute accuracy by confidence, and the expected calibration error.

    Args:
        confidence: probability of the predicted class (N,).
        right: whether it was the true class (N,).
        bins: number of bins, of equal width.
    """
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    mean_confidence = np.bincount(bin_of, confidence, bins) / np.maximum(counts, 1)
    true = np.bincount(bin_of, right.astype(np.float64), bins) / np.maximum(counts, 1)
    error = float(np.sum(counts * np.abs(mean_confidence - true)) / max(1, len(confidence)))
    rows = [[float(mean_confidence[i]), float(true[i]), int(counts[i])] for i in range(bins) if counts[i]]
    return {"error": error, "bins": rows}
