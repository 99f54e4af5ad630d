"""Predictions of a fine-tuned model, and the metrics of its tasks."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from firstlight import parallel
from firstlight.finetuning.bag_of_words import BagOfWords
from firstlight.finetuning.examples import EncodedExample, Prediction
from firstlight.finetuning.kinds import TaskHead, head_of, row_losses
from firstlight.finetuning.loss import collate, last_hidden_states
from firstlight.finetuning.spec import TaskSpec
from firstlight.finetuning.worst_errors import Decode, majority_baseline, worst_errors
from firstlight.model import GPT
from firstlight.statistics import (
    METRICS,
    bootstrap_interval,
    calibration,
    confusion,
    paired_p_value,
    wilson_interval,
)

_BATCH_TOKENS = 16_384  # of one forward pass
_MAX_CONFUSION_CLASSES = 100  # the matrix has the square of their number


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """Metrics of a model on one task.

    Attributes:
        metric: name of the task's own metric.
        value: of it.
        low, high: its 95 % interval.
        others: all reported metrics, by name.
        loss: mean per row or word: cross-entropy in nats, or squared error.
        n: rows, or labelled words.
        confusion: (n, n) true by predicted, of up to 100 classes; or None.
        calibration: as ``statistics.calibration``, or None.
        worst: wrong predictions, the most confident first; of scores, the largest losses. Each has where, true,
            predicted, probability and loss, of a word also its number in the row, and the text if it is decoded.
        majority: the most frequent label of the training rows, and the ``value`` of always predicting it; or None.
        bag_of_words: the ``value`` of a linear ``model`` on TF-IDF of words, fitted to ``rows`` training rows, and the
            ``p_value`` of the difference from this one on the same rows; or None.
    """

    metric: str
    value: float
    low: float
    high: float
    others: dict[str, float]
    loss: float
    n: int
    confusion: list[list[int]] | None = None
    calibration: dict[str, Any] | None = None
    worst: list[dict[str, Any]] = field(default_factory=list)
    majority: dict[str, Any] | None = None
    bag_of_words: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EvalResults:
    """An evaluation of all tasks.

    Attributes:
        tasks: metrics of the tasks with a head, by name.
        texts: loss in nats per token of the others, by name.
    """

    tasks: Mapping[str, TaskMetrics]
    texts: Mapping[str, float]

    @property
    def loss(self) -> float:
        """The mean of the tasks' losses."""
        losses = [*(m.loss for m in self.tasks.values()), *self.texts.values()]
        return sum(losses) / len(losses)

    @property
    def criterion(self) -> float:
        """Minus the mean of the tasks' own metrics; the loss where no task has a head."""
        values = [m.value for m in self.tasks.values()]
        return -sum(values) / len(values) if values else self.loss

    def metrics(self) -> dict[str, float]:
        """Return every metric as ``task/metric``."""
        found = {f"{name}/{metric}": v for name, m in self.tasks.items() for metric, v in m.others.items()}
        return {
            **found,
            **{f"{name}/loss": m.loss for name, m in self.tasks.items()},
            **{f"{name}/loss": loss for name, loss in self.texts.items()},
        }


@torch.no_grad()
def predict(
    model: GPT,
    spec: TaskSpec,
    rows: Sequence[EncodedExample],
    device_context: parallel.DeviceContext,
    *,
    max_rows: int | None = None,
    confidence_only: bool = False,
    on_rows: Callable[[int], object] = lambda _: None,
) -> list[Prediction]:
    """Return the prediction for each row.

    Args:
        model: with the task's head; its mode is kept.
        spec: a task with a head.
        rows: with labels or without.
        device_context: device and precision.
        max_rows: limit of rows in one forward pass.
        confidence_only: keep the probability of the predicted class only, which is all that metrics need.
        on_rows: called with the number of rows of each forward pass.
    """
    predictions: list[Prediction | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: rows[i].length)
    was_training = model.training
    model.eval()
    try:
        while order:
            longest = rows[order[-1]]
            n = max(1, _BATCH_TOKENS // (longest.length * len(longest.sequences)))
            n = min(n, max_rows or n)
            part, order = order[-n:], order[:-n]
            found = _predict_batch(model, spec, [rows[i] for i in part], device_context)
            if confidence_only:
                found = [replace(p, probabilities=_confidence(p.probabilities)) for p in found]
            for i, prediction in zip(part, found, strict=True):
                predictions[i] = prediction
            on_rows(len(part))
    finally:
        model.train(was_training)
    return [prediction for prediction in predictions if prediction is not None]


def _predict_batch(
    model: GPT, spec: TaskSpec, rows: Sequence[EncodedExample], device_context: parallel.DeviceContext
) -> list[Prediction]:
    head = _head(spec)
    batch = collate(spec, rows).slice_rows(slice(None), device_context.device)
    with parallel.autocast(device_context):
        hidden = last_hidden_states(model, batch)
        logits = head.logits(spec, model.heads[spec.name], hidden, batch, nn.Identity()).float()
    losses = row_losses(head.losses(logits, batch), rows)
    predicted = head.predict(logits, rows)
    return [Prediction(*answer, loss) for answer, loss in zip(predicted, losses, strict=True)]


def _confidence(probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of the predicted class, as an array of its own."""
    return probabilities.max(-1, keepdims=True) if probabilities.size else probabilities


def compute_metrics(
    spec: TaskSpec,
    rows: Sequence[EncodedExample],
    predictions: Sequence[Prediction],
    *,
    n_bootstrap: int = 0,
    train: Sequence[EncodedExample] = (),
    decode: Decode | None = None,
    bag_of_words: BagOfWords | None = None,
) -> TaskMetrics:
    """Compare predictions with labels.

    Args:
        spec: a task with a head.
        rows: labelled.
        predictions: for each row.
        n_bootstrap: resamples of the interval; 0 for none, which is fast.
        train: the training rows, of which the most frequent label is a baseline.
        decode: returns the text of ids; without it, the worst errors have no text.
        bag_of_words: a baseline that was fitted to the training rows.

    Returns:
        The metrics; NaN where the loss is not finite.
    """
    head = _head(spec)
    labels, predicted = [r.label for r in rows], [p.label for p in predictions]
    guess, true = TaskHead.metric_inputs(head, spec, "", predicted, labels)
    own, loss = main_metric(spec), sum(p.loss for p in predictions) / len(true)
    if not math.isfinite(loss):  # what such a model predicts means nothing
        nothing = dict.fromkeys([own, *head.reported_metrics(spec)], math.nan)
        return TaskMetrics(own, math.nan, math.nan, math.nan, nothing, loss, len(true))
    known = {**head.metrics, **head.errors}
    inputs = {
        name: head.metric_inputs(spec, name, predicted, labels)
        for name in dict.fromkeys([own, *head.reported_metrics(spec)])
    }
    values = {name: known[name](*compared) for name, compared in inputs.items()}
    low, high = math.nan, math.nan
    if n_bootstrap:
        by_word = head.is_per_token and len(inputs[own][0]) != len(rows)
        lengths = np.array([len(label) for label in predicted if isinstance(label, tuple)]) if by_word else None
        low, high = bootstrap_interval(head.metrics[own], *inputs[own], n_bootstrap=n_bootstrap, lengths=lengths)
        if low == high and head.metrics[own] is METRICS["accuracy"] and not by_word:
            # All rows are right, or all wrong, in every resample.
            low, high = wilson_interval(values[own] * len(true), len(true))
    calibrated = None
    if head.has_probabilities:
        confidence = np.concatenate([np.atleast_1d(p.probabilities.max(-1)) for p in predictions])
        calibrated = calibration(confidence, guess == true)
    return TaskMetrics(
        metric=own,
        value=values[own],
        low=low,
        high=high,
        others=values,
        loss=loss,
        n=len(true),
        confusion=_confusion(spec, head, guess, true),
        calibration=calibrated,
        worst=worst_errors(spec, head, rows, predictions, decode),
        majority=majority_baseline(spec, head, own, train, labels),
        bag_of_words=None
        if bag_of_words is None
        else _score_baseline(spec, head, own, bag_of_words, rows, *inputs[own]),
    )


def _score_baseline(
    spec: TaskSpec,
    head: TaskHead,
    name: str,
    baseline: BagOfWords,
    rows: Sequence[EncodedExample],
    guess: np.ndarray,
    true: np.ndarray,
) -> dict[str, Any]:
    """Return the baseline's value of a metric, and the p-value of its difference from the model's guess."""
    metric = head.metrics[name]
    theirs, _ = head.metric_inputs(spec, name, baseline.predict(rows), [row.label for row in rows])
    value, p_value = metric(theirs, true), paired_p_value(metric, theirs, guess, true)
    return {"model": baseline.model, "value": value, "rows": baseline.n_rows, "p_value": p_value}


def main_metric(spec: TaskSpec) -> str:
    """Name the metric of a task that selects the best checkpoint; ``loss`` where it has no head."""
    head = head_of(spec)
    if head is None:
        return "loss"
    return head.reported_metrics(spec)[0] if spec.metric == "auto" else spec.metric


def criterion_name(specs: Iterable[TaskSpec]) -> str:
    """Name what selects the best checkpoint of a run on several tasks: the mean of the metrics of those with a head."""
    names = [main_metric(spec) for spec in specs if head_of(spec) is not None]
    different = " and ".join(dict.fromkeys(names))
    return "loss" if not names else different if len(names) == 1 else f"mean {different}"


def format_label(spec: TaskSpec, label: Any) -> Any:
    """Return a label as people write it."""
    return _head(spec).format_label(spec, label)


def format_prediction(spec: TaskSpec, prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as people write it: label and probabilities, or a score."""
    return _head(spec).format_prediction(spec, prediction)


def _head(spec: TaskSpec) -> TaskHead:
    head = head_of(spec)
    assert head is not None, "callers check that the task has one"
    return head


def _confusion(spec: TaskSpec, head: TaskHead, guess: np.ndarray, true: np.ndarray) -> list[list[int]] | None:
    n = len(spec.labels)
    if not head.has_classes or n > _MAX_CONFUSION_CLASSES:
        return None
    table: list[list[int]] = confusion(guess, true, n).tolist()
    return table
