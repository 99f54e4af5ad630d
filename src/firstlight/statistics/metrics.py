"""Evaluation metrics with bootstrap confidence intervals.

Accuracy, which is also micro F1 and exact match; F1 of one class and macro (van Rijsbergen 1979); Matthews' correlation
(1975; for several classes Gorodkin 2004); precision, recall and F1 of entities (Tjong Kim Sang and De Meulder 2003);
Pearson's and Spearman's; the mean absolute error. Calibration error as Guo et al. 2017 have it.
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


def entity_precision(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the fraction of the predicted entities that are right, from counts by row; see ``entity_f1``."""
    del true
    return float(predicted[:, 0].sum() / max(1, predicted[:, 1].sum()))


def entity_recall(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the fraction of the true entities that are predicted, from counts by row; see ``entity_f1``."""
    del predicted
    return float(true[:, 0].sum() / max(1, true[:, 1].sum()))


def entity_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute micro F1 of entities from counts by row (N, 2): right entities, and predicted or true ones."""
    return float(2 * true[:, 0].sum() / max(1, predicted[:, 1].sum() + true[:, 1].sum()))


def mean_absolute_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the mean absolute difference."""
    return float(np.abs(predicted - true).mean())


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "exact_match": accuracy,
    "micro_f1": accuracy,
    "entity_f1": entity_f1,
    "entity_precision": entity_precision,
    "entity_recall": entity_recall,
}
# Lower is better, so these are reported, and cannot select a checkpoint.
ERRORS: dict[str, Metric] = {"mae": mean_absolute_error}


def bootstrap_interval(
    metric: Metric,
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    level: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
    lengths: np.ndarray | None = None,
) -> tuple[float, float]:
    """Compute a percentile bootstrap interval of a metric, resampling rows with replacement (Efron 1979).

    Args:
        metric: a function of predictions and labels.
        predicted: of each row.
        true: of each row.
        level: confidence level.
        n_bootstrap: number of resamples.
        seed: of the resampling.
        lengths: how many neighbouring entries of ``predicted`` and ``true`` are one row, such as the words of a
            sentence, which are not independent; by default each entry is one.
    """
    generator = np.random.default_rng(seed)
    n = len(true) if lengths is None else len(lengths)
    values = []
    for _ in range(n_bootstrap):
        rows = generator.integers(0, n, n)
        if lengths is not None:
            rows = _entries(rows, lengths)
        values.append(metric(predicted[rows], true[rows]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p_value(
    metric: Metric,
    first: np.ndarray,
    second: np.ndarray,
    true: np.ndarray,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> float:
    """Compute the two-sided p-value of the difference of two models on the same rows.

    Of accuracy by McNemar's exact test (1947); of other metrics by a bootstrap over rows, paired.

    Args:
        metric: a function of predictions and labels.
        first: predictions of one model (N,).
        second: predictions of the other (N,).
        true: labels (N,).
        n_bootstrap: number of resamples.
        seed: of the resampling.
    """
    if metric is accuracy:
        only_first = int(((first == true) & (second != true)).sum())
        only_second = int(((second == true) & (first != true)).sum())
        if only_first == only_second:
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(only_first, only_first + only_second).pvalue)
    generator = np.random.default_rng(seed)
    below = above = 0
    for _ in range(n_bootstrap):
        rows = generator.integers(0, len(true), len(true))
        difference = metric(first[rows], true[rows]) - metric(second[rows], true[rows])
        below, above = below + (difference <= 0), above + (difference >= 0)
    return min(1.0, 2 * min(below, above) / n_bootstrap)


def _entries(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the indices of the entries of rows, one row after the other."""
    sizes = lengths[rows]
    ends = np.cumsum(sizes)
    first = (np.cumsum(lengths) - lengths)[rows]  # of each drawn row, in the whole
    indices: np.ndarray = np.arange(sizes.sum()) + np.repeat(first - (ends - sizes), sizes)
    return indices


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
