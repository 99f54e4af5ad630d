"""What a fine-tuned model says of rows, and how good that is by the metrics of the task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from firstlight import parallel
from firstlight.finetuning.loss import collate, head_logits, last_hidden, linear_nll
from firstlight.finetuning.preprocess import EncodedExample
from firstlight.finetuning.spec import TaskSpec
from firstlight.model import GPT
from firstlight.statistics import METRICS, bootstrap_interval, calibration, confusion

_TOKENS = 16_384  # of one forward pass
_WORST = 20


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one row.

    Attributes:
        label: class, answer or score; of words, one a word.
        probabilities: of each class or answer; of words, (words, classes); empty for a score.
        nats: the row's loss; NaN where it has no label.
    """

    label: int | float | tuple[int, ...]
    probabilities: np.ndarray
    nats: float


@torch.no_grad()
def predict(
    model: GPT,
    spec: TaskSpec,
    rows: Sequence[EncodedExample],
    device_context: parallel.DeviceContext,
    *,
    most: int | None = None,
) -> list[Prediction]:
    """Return what the model says of each row.

    Args:
        model: with the task's head; in any mode, left in it.
        spec: the task.
        rows: with labels or without.
        device_context: device and precision.
        most: rows of one forward pass.
    """
    said: list[Prediction | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: rows[i].width)
    was_training = model.training
    model.eval()
    try:
        while order:
            widest = rows[order[-1]]
            n = max(1, _TOKENS // (widest.width * len(widest.sequences)))
            part, order = order[-min(n, most or n) :], order[: -min(n, most or n)]
            for i, answer in zip(part, _answers(model, spec, [rows[i] for i in part], device_context), strict=True):
                said[i] = answer
    finally:
        model.train(was_training)
    return [answer for answer in said if answer is not None]


def _answers(
    model: GPT, spec: TaskSpec, rows: Sequence[EncodedExample], device_context: parallel.DeviceContext
) -> list[Prediction]:
    batch = collate(spec.name, rows, scored=spec.scored).slice_rows(slice(None), device_context.device)
    with parallel.autocast(device_context):
        logits = head_logits(model, spec, batch, last_hidden(model, batch), nn.Identity()).float()
    nats = linear_nll(spec, logits, batch).cpu().double().numpy()
    if spec.scored:
        values = logits.cpu().double().numpy()
        return [
            Prediction(float(v), np.zeros(0), math.nan if row.label is None else float(loss))
            for v, loss, row in zip(values, nats, rows, strict=True)
        ]
    chances = logits.softmax(-1).cpu().numpy()
    if spec.kind == "tokens":
        losses = nats.reshape(len(rows), -1)
        return [
            Prediction(
                tuple(chances[b, : len(row.reads)].argmax(-1).tolist()),
                chances[b, : len(row.reads)],
                math.nan if row.label is None else float(losses[b].sum()),
            )
            for b, row in enumerate(rows)
        ]
    return [
        Prediction(
            int(chances[b].argmax()),
            chances[b, : len(row.sequences)] if spec.kind == "choice" else chances[b],
            math.nan if row.label is None else float(nats[b]),
        )
        for b, row in enumerate(rows)
    ]


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """How good a model is on one task.

    Attributes:
        metric: name of the task's own metric.
        value: of it.
        low, high: its 95 % interval.
        others: further metrics, by name.
        loss: mean nats a row (word), or squared error.
        n: rows, of words the labelled words.
        confusion: (n, n) true by predicted, or None.
        calibration: as ``statistics.calibration``, or None.
        worst: rows with the largest losses: where, true, said, probability, nats.
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


def compute_metrics(
    spec: TaskSpec, rows: Sequence[EncodedExample], said: Sequence[Prediction], *, n_bootstrap: int = 0
) -> TaskMetrics:
    """Compare what was said with the labels.

    Args:
        spec: the task.
        rows: labelled.
        said: of each row.
        n_bootstrap: of the interval; 0 for none, which is quick.
    """
    true, predicted = _flat(rows, said)
    names = _metrics(spec)
    values = {name: METRICS[name](predicted, true) for name in names}
    low, high = (
        bootstrap_interval(METRICS[names[0]], predicted, true, n_bootstrap=n_bootstrap)
        if n_bootstrap
        else (math.nan, math.nan)
    )
    loss = sum(s.nats for s in said) / len(true)
    if spec.scored:
        return TaskMetrics(
            names[0], values[names[0]], low, high, values, loss, len(true), worst=_worst(spec, rows, said)
        )
    table = None
    if spec.kind != "choice":
        table = confusion(predicted, true, len(spec.labels)).tolist()
    confidence = np.concatenate([np.atleast_1d(s.probabilities.max(-1)) for s in said])
    return TaskMetrics(
        names[0],
        values[names[0]],
        low,
        high,
        values,
        loss,
        len(true),
        table,
        calibration(confidence, predicted == true),
        _worst(spec, rows, said),
    )


def _flat(rows: Sequence[EncodedExample], said: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    true: list[Any] = []
    predicted: list[Any] = []
    for row, answer in zip(rows, said, strict=True):
        if isinstance(row.label, tuple):
            assert isinstance(answer.label, tuple)
            true += row.label
            predicted += answer.label
        else:
            true.append(row.label)
            predicted.append(answer.label)
    return np.array(true), np.array(predicted)


def _metrics(spec: TaskSpec) -> list[str]:
    """Return the task's own metric, and what else is worth knowing."""
    if spec.scored:
        found = ["pearson", "spearman"]
    elif spec.kind == "choice":
        found = ["accuracy"]
    elif len(spec.labels) == 2:
        found = ["accuracy", "f1", "macro_f1", "matthews"]
    else:
        found = ["accuracy", "macro_f1", "matthews"]
    own = found[0] if spec.metric == "auto" else spec.metric
    return [own, *(name for name in found if name != own)]


def _worst(spec: TaskSpec, rows: Sequence[EncodedExample], said: Sequence[Prediction]) -> list[dict[str, Any]]:
    if spec.kind == "tokens":
        return []
    order = sorted(range(len(rows)), key=lambda i: -said[i].nats)[:_WORST]
    return [
        {
            "where": rows[i].where,
            "true": format_label(spec, rows[i].label),
            "said": format_label(spec, said[i].label),
            "probability": None if spec.scored else float(said[i].probabilities.max()),
            "nats": said[i].nats,
        }
        for i in order
    ]


def format_label(spec: TaskSpec, label: Any) -> Any:
    """Return a label as people write it: a class's name, a score in its own scale, an answer's number."""
    if label is None or spec.kind == "choice":
        return label
    if spec.scored:
        return spec.in_scale(float(label))
    if isinstance(label, tuple):
        return [spec.labels[i] for i in label]
    return spec.labels[int(label)]


@dataclass(frozen=True, slots=True)
class EvalResults:
    """An evaluation of all tasks.

    Attributes:
        tasks: figures by name.
        texts: nats a token of tasks that are text, by name.
    """

    tasks: Mapping[str, TaskMetrics]
    texts: Mapping[str, float]

    @property
    def loss(self) -> float:
        """The mean of the tasks' losses."""
        losses = [*(f.loss for f in self.tasks.values()), *self.texts.values()]
        return sum(losses) / len(losses)

    @property
    def criterion(self) -> float:
        """Minus the mean of the tasks' own metrics; where all tasks are text, the loss."""
        values = [f.value for f in self.tasks.values()]
        return -sum(values) / len(values) if values else self.loss

    def figures(self) -> dict[str, float]:
        """Return every metric as ``task/metric``."""
        found = {f"{name}/{metric}": v for name, f in self.tasks.items() for metric, v in f.others.items()}
        return {
            **found,
            **{f"{name}/loss": f.loss for name, f in self.tasks.items()},
            **{f"{name}/loss": nats for name, nats in self.texts.items()},
        }
