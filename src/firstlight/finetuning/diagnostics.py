"""What a person should know about the scores of a fine-tuned model: where they are no better than something simple."""

import math
from collections.abc import Sequence

from firstlight.finetuning.metrics import TaskMetrics

_Z = 1.96  # of the half width of an interval of 95 %
_Z_DIFFERENT = 2.58  # two-sided, 1 %: two splits of one distribution differ by more in one task of a hundred
_P_DIFFERENT, _P_AHEAD = 0.01, 0.05
_MIN_ROWS = 10  # fewer say nothing about a metric other than accuracy
_LEAST_ERROR = 1.0  # times 1 / sqrt(n): keeps false alarms of metrics other than accuracy at 1 %, also without a width
_CORRELATIONS = ("pearson", "spearman", "matthews")  # 0 without skill


def diagnose(valid: TaskMetrics, test: TaskMetrics | None, labels: Sequence[str]) -> list[str]:
    """Return warnings about the metrics of a task, with their intervals; none where all is as hoped.

    Args:
        valid: on the validation split, which selected the checkpoint.
        test: on the test split, if there is one.
        labels: names of the classes; empty where there are none.
    """
    side, found = ("validation", valid) if test is None else ("test", test)
    warnings = [*_against_constant(found, side, labels), *_against_words(found, side)]
    if test is not None and _differ(valid, test):
        why = (
            "validation rows may resemble training rows, or test rows be of another kind"
            if valid.value > test.value
            else "test rows may resemble training rows more than validation rows do, or be easier"
        )
        warnings.append(
            f"{valid.metric} is {valid.value:.3f} on the validation rows and {test.value:.3f} on the test rows: they "
            f"differ by more than chance; {why}"
        )
    return warnings


def _against_constant(found: TaskMetrics, side: str, labels: Sequence[str]) -> list[str]:
    """Compare with the best answer that is the same for every row."""
    if not math.isfinite(found.value):
        return []
    says = f"{found.metric} {found.value:.3f} on the {side} rows"
    advice = "try other values of optim.lr and train.epochs (--search does), another run.seed, or more rows"
    if found.majority is None:
        return _against_no_skill(found, says, advice)
    label, value = _best_constant(found, labels)
    if value == 1:
        return [f"every one of the {side} rows has the label {label!r}, so they say nothing about the others"]
    only = _only_class(found)
    what = f"always predicting {label!r} ({value:.3f})"
    if found.value <= value:
        same = f", and every row is predicted as {labels[only]!r}" if only is not None else ""
        return [f"{says} does not beat {what}{same}: {advice}"]
    if found.low <= value:
        return [f"{says} is above {what}, but not beyond chance: its interval begins at {found.low:.3f}; {advice}"]
    return []


def _against_no_skill(found: TaskMetrics, says: str, advice: str) -> list[str]:
    if found.metric not in _CORRELATIONS or found.low > 0:
        return []
    return [f"{says} is not above 0 beyond chance: its interval begins at {found.low:.3f}; {advice}"]


def _best_constant(found: TaskMetrics, labels: Sequence[str]) -> tuple[object, float]:
    """Return the label with the highest metric if it is predicted for every row, and its value.

    Of accuracy that is the most frequent label of these rows, which may not be that of the training rows.
    """
    assert found.majority is not None, "the caller checks it"
    label, value = found.majority["label"], float(found.majority["value"])
    if found.metric == "accuracy" and found.confusion:
        counts = [sum(row) for row in found.confusion]
        most = max(range(len(counts)), key=counts.__getitem__)
        if counts[most] / sum(counts) > value:
            return labels[most], counts[most] / sum(counts)
    return label, value


def _against_words(found: TaskMetrics, side: str) -> list[str]:
    if found.bag_of_words is None or not found.bag_of_words["value"] > found.value:
        return []
    value, model, p_value = (found.bag_of_words[key] for key in ("value", "model", "p_value"))
    says = (
        f"a bag of words ({model} on TF-IDF, of the tokens that the model reads) has {found.metric} {value:.3f} on the "
        f"{side} rows, the model {found.value:.3f}"
    )
    if p_value > _P_AHEAD:
        return [f"{says}: a difference within chance (p = {p_value:.2f})"]
    return [
        f"{says} (p = {p_value:.2g}): the task may need no more than words, or the model more pre-training text, "
        "updates (--search) or rows"
    ]


def _only_class(found: TaskMetrics) -> int | None:
    """Return the number of the only class that is predicted; None if there are several."""
    if found.confusion is None:
        return None
    columns = [i for i, column in enumerate(zip(*found.confusion, strict=True)) if any(column)]
    return columns[0] if len(columns) == 1 else None


def _differ(valid: TaskMetrics, test: TaskMetrics) -> bool:
    """Whether two values differ by more than chance explains, at 1 %."""
    if not math.isfinite(valid.value) or not math.isfinite(test.value):
        return False
    if valid.metric == "accuracy":
        from scipy.stats import fisher_exact

        table = [[round(m.value * m.n), m.n - round(m.value * m.n)] for m in (valid, test)]
        if fisher_exact(table).pvalue >= _P_DIFFERENT:
            return False
        least = 0.0  # of words, which are not independent, the intervals are wider than the test knows
    elif min(valid.n, test.n) < _MIN_ROWS:
        return False
    else:
        least = _LEAST_ERROR
    errors = [max((m.high - m.low) / (2 * _Z), least / math.sqrt(m.n)) for m in (valid, test)]
    return abs(valid.value - test.value) > _Z_DIFFERENT * math.hypot(*errors)
