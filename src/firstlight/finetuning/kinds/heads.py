"""The heads: of classes and of scores for whole inputs, of answers to choose from, and of a class per word."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from firstlight.errors import ConfigError, CorpusError
from firstlight.files.field_text import is_missing
from firstlight.finetuning.examples import EncodedExample, Label, Prediction, RawExample, TaskBatch
from firstlight.finetuning.kinds.choices import answer_encoder, resolve_answer_format
from firstlight.finetuning.kinds.column_text import split_words
from firstlight.finetuning.kinds.entities import ENTITY_METRICS, entity_counts, mark_entities
from firstlight.finetuning.kinds.interface import LabelEncoder, TaskHead
from firstlight.finetuning.kinds.labels import (
    class_encoder,
    fit_classes,
    flat_labels,
    frequency_loss,
    label_text,
    read_number,
)
from firstlight.finetuning.spec import TaskSpec
from firstlight.statistics import ERRORS, METRICS
from firstlight.statistics.metrics import Metric

_CLASS_METRICS: dict[str, Metric] = {
    name: METRICS[name] for name in ("accuracy", "f1", "macro_f1", "micro_f1", "matthews", "exact_match")
}


@dataclass(frozen=True, slots=True)
class ClassificationHead(TaskHead):
    """One class per input, by cross-entropy."""

    has_classes: ClassVar = True
    has_probabilities: ClassVar = True
    metrics: ClassVar = _CLASS_METRICS

    def read_label(self, value: Any, texts: Sequence[str], where: str) -> str | None:  # noqa: ARG002
        """Return the label as text."""
        return label_text(value, where)

    def fit_labels(
        self,
        spec: TaskSpec,
        train: Sequence[RawExample],
        rows: Sequence[RawExample],  # noqa: ARG002
    ) -> tuple[TaskSpec, LabelEncoder]:
        """Take the labels from the training rows where the task does not list them."""
        fitted = fit_classes(spec, [(raw.label, raw.where) for raw in train])
        encode = class_encoder(fitted)
        return fitted, lambda raw: encode(raw.label, raw.where)

    def n_outputs(self, spec: TaskSpec) -> int:
        """Return the number of classes."""
        return len(spec.labels)

    def collate_labels(self, rows: Sequence[EncodedExample]) -> Int[Tensor, " B"]:
        """Stack the classes."""
        return torch.tensor([0 if row.label is None else row.label for row in rows], dtype=torch.int64)

    def logits(
        self, spec: TaskSpec, head: nn.Module, hidden: Float[Tensor, "N T C"], batch: TaskBatch, dropout: nn.Module
    ) -> Float[Tensor, "B n"]:
        """Return the logits of the classes."""
        # The states of both orders of a pair are summed before the head.
        logits: Tensor = head(dropout(pooled_states(spec, hidden, batch).sum(1)))
        return logits

    def losses(
        self, logits: Float[Tensor, "B n"], batch: TaskBatch, class_weights: Tensor | None = None
    ) -> Float[Tensor, " B"]:
        """Return the cross-entropy of each row, in nats."""
        weight = None if class_weights is None else class_weights.to(logits.device)
        return F.cross_entropy(logits.float(), batch.labels, weight, reduction="none")

    def constant_loss(
        self, spec: TaskSpec, train: Sequence[EncodedExample], rows: Sequence[EncodedExample]
    ) -> float | None:
        """Return the cross-entropy under the frequencies of the training labels, in nats."""
        return frequency_loss(flat_labels(train), flat_labels(rows), len(spec.labels))

    def predict(self, logits: Float[Tensor, "B n"], rows: Sequence[EncodedExample]) -> list[tuple[Label, np.ndarray]]:
        """Return the likeliest class of each row, and the probability of every class."""
        probabilities = logits.softmax(-1).cpu().numpy()
        return [(int(p.argmax()), p) for p in probabilities[: len(rows)]]

    def reported_metrics(self, spec: TaskSpec) -> list[str]:
        """Report accuracy first; F1 of the second class where there are two."""
        return class_metrics(spec)

    def format_label(self, spec: TaskSpec, label: Label) -> Any:
        """Return the name of the class."""
        return None if label is None else spec.labels[int(label)]  # type: ignore[arg-type]

    def format_prediction(self, spec: TaskSpec, prediction: Prediction) -> dict[str, Any]:
        """Return the class, and the probability of every class."""
        label = self.format_label(spec, prediction.label)
        return {"label": label, "probabilities": name_probabilities(spec.labels, prediction.probabilities)}


@dataclass(frozen=True, slots=True)
class RegressionHead(TaskHead):
    """One score per input, learned from 0 (lowest of the task's scale) to 1 (highest), by squared error."""

    metrics: ClassVar = {name: METRICS[name] for name in ("pearson", "spearman")}
    errors: ClassVar = {"mae": ERRORS["mae"]}
    prediction_keys: ClassVar = ("score",)

    def read_label(self, value: Any, texts: Sequence[str], where: str) -> str | None:  # noqa: ARG002
        """Return the score as text."""
        return label_text(value, where)

    def fit_labels(
        self,
        spec: TaskSpec,
        train: Sequence[RawExample],
        rows: Sequence[RawExample],  # noqa: ARG002
    ) -> tuple[TaskSpec, LabelEncoder]:
        """Take the scale from the training rows where the task does not set it."""
        declared = spec.scale
        if declared is None:
            scores = [read_number(raw.label, raw.where, spec.data.decimal) for raw in train]
            if min(scores) == max(scores):
                raise CorpusError("has one score only", where=train[0].where, found=scores[0])
            spec = spec.model_copy(update={"scale": (min(scores), max(scores))})
        low, high = spec.scale or (0.0, 1.0)

        def encode(raw: RawExample) -> float:
            score = read_number(raw.label, raw.where, spec.data.decimal)
            if declared is not None and not low <= score <= high:
                raise CorpusError("score is outside scale", where=raw.where, found=score, expected=f"{low} to {high}")
            return (score - low) / (high - low)

        return spec, encode

    def n_outputs(self, spec: TaskSpec) -> int:  # noqa: ARG002
        """Return 1."""
        return 1

    def collate_labels(self, rows: Sequence[EncodedExample]) -> Float[Tensor, " B"]:
        """Stack the scores."""
        return torch.tensor([0.0 if row.label is None else row.label for row in rows], dtype=torch.float32)

    def logits(
        self, spec: TaskSpec, head: nn.Module, hidden: Float[Tensor, "N T C"], batch: TaskBatch, dropout: nn.Module
    ) -> Float[Tensor, " B"]:
        """Return the scores."""
        logits: Tensor = head(dropout(pooled_states(spec, hidden, batch).sum(1)))
        return logits.squeeze(-1)

    def losses(
        self,
        logits: Float[Tensor, " B"],
        batch: TaskBatch,
        class_weights: Tensor | None = None,  # noqa: ARG002
    ) -> Float[Tensor, " B"]:
        """Return the squared error of each row."""
        return (logits.float() - batch.labels) ** 2

    def constant_loss(
        self,
        spec: TaskSpec,  # noqa: ARG002
        train: Sequence[EncodedExample],
        rows: Sequence[EncodedExample],
    ) -> float | None:
        """Return the mean squared distance to the mean training score."""
        return float(np.mean((flat_labels(rows) - flat_labels(train).mean()) ** 2))

    def predict(self, logits: Float[Tensor, " B"], rows: Sequence[EncodedExample]) -> list[tuple[Label, np.ndarray]]:
        """Return the score of each row."""
        return [(float(v), np.zeros(0)) for v in logits.cpu().double().numpy()[: len(rows)]]

    def reported_metrics(self, spec: TaskSpec) -> list[str]:  # noqa: ARG002
        """Report both correlations, Pearson's first, and the mean absolute error."""
        return ["pearson", "spearman", "mae"]

    def metric_inputs(
        self, spec: TaskSpec, metric: str, predicted: Sequence[Any], true: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores, for errors in the scale of the task."""
        low, high = spec.scale or (0.0, 1.0)
        unit = high - low if metric in self.errors else 1.0
        return np.array(predicted) * unit, np.array(true) * unit

    def format_label(self, spec: TaskSpec, label: Label) -> Any:
        """Return the score in the task's scale."""
        low, high = spec.scale or (0.0, 1.0)
        return None if label is None else low + float(label) * (high - low)  # type: ignore[arg-type]

    def format_prediction(self, spec: TaskSpec, prediction: Prediction) -> dict[str, Any]:
        """Return the score."""
        return {"score": self.format_label(spec, prediction.label)}


@dataclass(frozen=True, slots=True)
class MultipleChoiceHead(TaskHead):
    """One of the row's own answers, by cross-entropy over a logit per answer."""

    has_probabilities: ClassVar = True
    metrics: ClassVar = {name: metric for name, metric in _CLASS_METRICS.items() if name != "f1"}

    def read_label(self, value: Any, texts: Sequence[str], where: str) -> Any:  # noqa: ARG002
        """Return a whole number as it is, anything else as text."""
        text = label_text(value, where)
        is_text = text is None or isinstance(value, str | bytes) or not text.removeprefix("-").isdigit()
        return text if is_text else int(text or 0)

    def fit_labels(
        self,
        spec: TaskSpec,
        train: Sequence[RawExample],  # noqa: ARG002
        rows: Sequence[RawExample],
    ) -> tuple[TaskSpec, LabelEncoder]:
        """Find out how labels are written, unless the task says it."""
        answer_format = resolve_answer_format(spec, rows)
        return spec.model_copy(update={"answer_format": answer_format}), answer_encoder(answer_format)

    def n_outputs(self, spec: TaskSpec) -> int:  # noqa: ARG002
        """Return 1, for each answer."""
        return 1

    def collate_labels(self, rows: Sequence[EncodedExample]) -> Int[Tensor, " B"]:
        """Stack the right answers, as indices of the sequences."""
        labels = [0 if row.label is None else _choices(row).index(row.label) for row in rows]
        return torch.tensor(labels, dtype=torch.int64)

    def logits(
        self, spec: TaskSpec, head: nn.Module, hidden: Float[Tensor, "N T C"], batch: TaskBatch, dropout: nn.Module
    ) -> Float[Tensor, "B S"]:
        """Return a logit per answer; minus infinity for answers that a row does not have."""
        answers: Tensor = head(dropout(pooled_states(spec, hidden, batch))).squeeze(-1)
        return answers.masked_fill(~batch.sequence_mask, float("-inf"))

    def losses(
        self,
        logits: Float[Tensor, "B S"],
        batch: TaskBatch,
        class_weights: Tensor | None = None,  # noqa: ARG002
    ) -> Float[Tensor, " B"]:
        """Return the cross-entropy of each row, in nats."""
        return F.cross_entropy(logits.float(), batch.labels, reduction="none")

    def constant_loss(
        self,
        spec: TaskSpec,  # noqa: ARG002
        train: Sequence[EncodedExample],  # noqa: ARG002
        rows: Sequence[EncodedExample],
    ) -> float | None:
        """Return the cross-entropy of equally likely answers, in nats."""
        return float(np.mean([math.log(len(_choices(row))) for row in rows]))

    def predict(self, logits: Float[Tensor, "B S"], rows: Sequence[EncodedExample]) -> list[tuple[Label, np.ndarray]]:
        """Return the index of the likeliest answer, and the probability of each of the row's answers.

        Answers are counted as the row has them; one that is missing has probability 0.
        """
        found: list[tuple[Label, np.ndarray]] = []
        for p, row in zip(logits.softmax(-1).cpu().numpy(), rows, strict=True):
            choices = _choices(row)
            probabilities = np.zeros(choices[-1] + 1, dtype=p.dtype)
            probabilities[list(choices)] = p[: len(choices)]
            found.append((int(probabilities.argmax()), probabilities))
        return found

    def reported_metrics(self, spec: TaskSpec) -> list[str]:  # noqa: ARG002
        """Report accuracy."""
        return ["accuracy"]

    def format_label(self, spec: TaskSpec, label: Label) -> Any:  # noqa: ARG002
        """Return the index of the answer."""
        return label

    def format_prediction(self, spec: TaskSpec, prediction: Prediction) -> dict[str, Any]:
        """Return the index of the answer, and the probability of every answer."""
        label, probabilities = self.format_label(spec, prediction.label), prediction.probabilities
        return {"label": label, "probabilities": name_probabilities(range(len(probabilities)), probabilities)}


@dataclass(frozen=True, slots=True)
class TokenClassificationHead(TaskHead):
    """A class per word, read at its last token, by cross-entropy."""

    has_classes: ClassVar = True
    has_probabilities: ClassVar = True
    is_per_token: ClassVar = True
    metrics: ClassVar = _CLASS_METRICS | {name: METRICS[name] for name in ENTITY_METRICS}
    prediction_keys: ClassVar = ("labels", "probabilities")

    def read_label(self, value: Any, texts: Sequence[str], where: str) -> tuple[str | None, ...] | None:
        """Return a label per word, from a list or from text with spaces."""
        labels = split_words(value, where) if isinstance(value, str) else value
        labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
        if is_missing(labels):
            return None
        if not isinstance(labels, list):
            raise CorpusError("has no list of labels", where=where, found=repr(labels)[:80])
        if len(labels) != len(texts):
            raise CorpusError("does not have one label per word", where=where, found=len(labels), expected=len(texts))
        return tuple(label_text(label, where) for label in labels)

    def fit_labels(
        self,
        spec: TaskSpec,
        train: Sequence[RawExample],
        rows: Sequence[RawExample],  # noqa: ARG002
    ) -> tuple[TaskSpec, LabelEncoder]:
        """Take the labels from the training rows where the task does not list them."""
        fitted = fit_classes(spec, [(label, raw.where) for raw in train for label in raw.label or (None,)])
        if spec.metric in ENTITY_METRICS and not mark_entities(fitted.labels):
            raise ConfigError(
                "needs labels that mark where entities begin",
                where=f"metric = {spec.metric!r}",
                found=", ".join(fitted.labels)[:100],
                expected="O, B-… and I-…",
                fix='Set metric = "macro_f1", or name the labels so in labels.',
            )
        encode = class_encoder(fitted)

        def encode_words(raw: RawExample) -> Label:
            if raw.label is None:
                return encode(None, raw.where)
            return tuple(encode(label, raw.where) for label in raw.label)

        return fitted, encode_words

    def n_outputs(self, spec: TaskSpec) -> int:
        """Return the number of classes."""
        return len(spec.labels)

    def collate_labels(self, rows: Sequence[EncodedExample]) -> Int[Tensor, "B R"]:
        """Stack the classes of the words, padded with 0."""
        labels = torch.zeros((len(rows), max(len(row.positions) for row in rows)), dtype=torch.int64)
        for b, row in enumerate(rows):
            if isinstance(row.label, tuple):
                labels[b, : len(row.label)] = torch.tensor(row.label)
        return labels

    def logits(
        self,
        spec: TaskSpec,  # noqa: ARG002
        head: nn.Module,
        hidden: Float[Tensor, "N T C"],
        batch: TaskBatch,
        dropout: nn.Module,
    ) -> Float[Tensor, "B R n"]:
        """Return the logits of the classes of each word."""
        rows = torch.arange(batch.n_rows, device=hidden.device)[:, None]
        return head(dropout(hidden[rows, batch.positions]))  # type: ignore[no-any-return]

    def losses(
        self, logits: Float[Tensor, "B R n"], batch: TaskBatch, class_weights: Tensor | None = None
    ) -> Float[Tensor, " BR"]:
        """Return the cross-entropy of each word, in nats."""
        weight = None if class_weights is None else class_weights.to(logits.device)
        losses = F.cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten(), weight, reduction="none")
        mask: Bool[Tensor, " BR"] = batch.position_mask.flatten()
        return losses * mask

    def constant_loss(
        self, spec: TaskSpec, train: Sequence[EncodedExample], rows: Sequence[EncodedExample]
    ) -> float | None:
        """Return the cross-entropy under the frequencies of the training labels, in nats."""
        return frequency_loss(flat_labels(train), flat_labels(rows), len(spec.labels))

    def predict(self, logits: Float[Tensor, "B R n"], rows: Sequence[EncodedExample]) -> list[tuple[Label, np.ndarray]]:
        """Return the likeliest class of each word, and the probabilities (words, classes)."""
        probabilities = [p[: len(row.positions)] for p, row in zip(logits.softmax(-1).cpu().numpy(), rows, strict=True)]
        return [(tuple(p.argmax(-1).tolist()), p) for p in probabilities]

    def reported_metrics(self, spec: TaskSpec) -> list[str]:
        """Report F1 of entities first where labels mark them (B-…, I-…, O), else accuracy."""
        return [*(ENTITY_METRICS if mark_entities(spec.labels) else ()), *class_metrics(spec)]

    def metric_inputs(
        self, spec: TaskSpec, metric: str, predicted: Sequence[Any], true: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts of entities of each row, or the classes of all words."""
        if metric in ENTITY_METRICS:
            return entity_counts(spec.labels, predicted, true)
        return TaskHead.metric_inputs(self, spec, metric, predicted, true)

    def format_label(self, spec: TaskSpec, label: Label) -> Any:
        """Return the name of each word's class."""
        return [spec.labels[i] for i in label] if isinstance(label, tuple) else None

    def format_prediction(self, spec: TaskSpec, prediction: Prediction) -> dict[str, Any]:
        """Return the class of each word, and its probability."""
        probabilities = [float(p.max()) for p in prediction.probabilities]
        return {"labels": self.format_label(spec, prediction.label), "probabilities": probabilities}


def _choices(row: EncodedExample) -> Sequence[int]:
    """Return which of the row's answers each sequence has."""
    return row.choices or range(len(row.sequences))


def pooled_states(spec: TaskSpec, hidden: Float[Tensor, "N T C"], batch: TaskBatch) -> Float[Tensor, "B S C"]:
    """Return one hidden state per sequence, pooled as the task asks."""
    return pool(hidden, batch.positions.flatten(), mean=spec.pool != "last").view(*batch.input_ids.shape[:2], -1)


def pool(hidden: Float[Tensor, "N T C"], last: Int[Tensor, " N"], *, mean: bool) -> Float[Tensor, "N C"]:
    """Return the hidden state of each sequence's last token, or the mean of all up to it."""
    if not mean:
        return hidden[torch.arange(len(last), device=last.device), last]
    mask = torch.arange(hidden.shape[1], device=last.device) <= last[:, None]  # (N, T)
    weights = mask.to(hidden.dtype) / (last[:, None] + 1)
    return torch.einsum("ntc,nt->nc", hidden, weights)


def class_metrics(spec: TaskSpec) -> list[str]:
    """Name the metrics of classes that are reported."""
    return ["accuracy", *(("f1",) if len(spec.labels) == 2 else ()), "macro_f1", "matthews"]


def name_probabilities(names: Sequence[object], probabilities: np.ndarray) -> dict[str, float]:
    """Return probabilities by name, rounded for people."""
    return {str(name): round(float(p), 6) for name, p in zip(names, probabilities, strict=True)}


def row_losses(losses: Float[Tensor, "..."], rows: Sequence[EncodedExample]) -> list[float]:
    """Sum the losses of each row's words; NaN for rows without a label."""
    per_row = losses.cpu().double().numpy().reshape(len(rows), -1)
    return [math.nan if row.label is None else float(loss.sum()) for row, loss in zip(rows, per_row, strict=True)]
