"""What a person should know about the scores of a fine-tuned model: where they are no better than something simple."""

import math
from collections.abc import Sequence

from firstlight.finetuning.metrics import TaskMetrics

_Z = 1.96  # of the half width of an interval of 95 %
_Z_DIFFERENT = 2.58  # two-sided, 1 %: two splits of one distribution differ by more in one task of a hundred


def diagnose(valid: TaskMetrics, test: TaskMetrics | None, labels: Sequence[str]) -> list[str]:
    """Return warnings about the metrics of a task, with their intervals; none where all is as hoped.

    Args:
        valid: on the validation split, which selected the checkpoint.
        test: on the test split, if there is one.
        labels: names of the classes; empty where there are none.
    """
    side, found = ("validation", valid) if test is None else ("test", test)
    warnings = [*_against_majority(found, side, labels), *_against_words(found, side)]
    if test is not None and _differ(valid, test):
        warnings.append(
            f"{valid.metric} is {valid.value:.3f} on the validation rows and {test.value:.3f} on the test rows, which "
            "is more than chance: trust the test rows, and look whether validation rows resemble training rows, or "
            "test rows are of another kind"
        )
    return warnings


def _against_majority(found: TaskMetrics, side: str, labels: Sequence[str]) -> list[str]:
    if found.majority is None or not math.isfinite(found.value):
        return []
    label, value = found.majority["label"], found.majority["value"]
    only = _only_class(found)
    says = f"{found.metric} {found.value:.3f} on the {side} rows"
    what = f"always predicting {label!r} ({value:.3f})"
    advice = "try other values of optim.lr and train.epochs (--search does), another run.seed, or more rows"
    if found.value <= value:
        same = f", and every row is predicted as {labels[only]!r}" if only is not None else ""
        return [f"{says} does not beat {what}{same}: {advice}"]
    if found.low <= value:
        return [f"{says} is above {what}, but not beyond chance: its interval begins at {found.low:.3f}; {advice}"]
    return []


def _against_words(found: TaskMetrics, side: str) -> list[str]:
    if found.bag_of_words is None or not found.bag_of_words["value"] > found.value:
        return []
    value, model = found.bag_of_words["value"], found.bag_of_words["model"]
    chance = "" if value > found.high else ", though not beyond chance"
    return [
        f"a {model} on the words alone (TF-IDF) is ahead on the {side} rows{chance}: {found.metric} {value:.3f}, the "
        f"model {found.value:.3f}"
    ]


def _only_class(found: TaskMetrics) -> int | None:
    """Return the number of the only class that is predicted; None if there are several."""
    if found.confusion is None:
        return None
    columns = [i for i, column in enumerate(zip(*found.confusion, strict=True)) if any(column)]
    return columns[0] if len(columns) == 1 else None


def _differ(valid: TaskMetrics, test: TaskMetrics) -> bool:
    """Whether two values differ by more than their intervals explain."""
    error = math.hypot(valid.high - valid.low, test.high - test.low) / (2 * _Z)
    return error > 0 and abs(valid.value - test.value) > _Z_DIFFERENT * error
