"""A task kind: any number of labels per text, with a logit and a binary cross-entropy for each label.

The column of labels holds their names, separated by spaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstlight.errors import CorpusError
from firstlight.finetuning.examples import EncodedExample, Label, Prediction, RawExample, TaskBatch
from firstlight.finetuning.kinds import LabelEncoder, TaskHead, TaskKind, pooled_states
from firstlight.finetuning.kinds.inputs import TextInput
from firstlight.finetuning.spec import TaskSpec


def subset_accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the fraction of rows of which every label is right."""
    return float((predicted == true).all(-1).mean())


@dataclass(frozen=True, slots=True)
class MultiLabelHead(TaskHead):
    """A linear layer with one output per label; a row's label is a tuple of zeros and ones."""

    metrics: ClassVar = {"subset_accuracy": subset_accuracy}
    prediction_keys: ClassVar = ("labels", "probabilities")

    def read_label(self, value: Any, texts: Sequence[str], where: str) -> tuple[str, ...] | None:
        """Split the value of the label column."""
        return None if value is None else tuple(str(value).split())

    def fit_labels(
        self, spec: TaskSpec, train: Sequence[RawExample], rows: Sequence[RawExample]
    ) -> tuple[TaskSpec, LabelEncoder]:
        """Collect the labels of the training rows, unless TASK.toml lists them."""
        labels = spec.labels or sorted({label for row in train for label in row.label or ()})
        if not labels:
            raise CorpusError("has no label, and no other row has one", where=train[0].where)

        def encode(row: RawExample) -> Label:
            if row.label is None:
                raise CorpusError("has no label", where=row.where)
            unknown = sorted(set(row.label) - set(labels))
            if unknown:
                raise CorpusError("has an unknown label", where=row.where, found=unknown[0], expected=", ".join(labels))
            return tuple(int(label in row.label) for label in labels)

        return spec.model_copy(update={"labels": labels}), encode

    def n_outputs(self, spec: TaskSpec) -> int:
        """Return the number of labels."""
        return len(spec.labels)

    def collate_labels(self, rows: Sequence[EncodedExample]) -> Float[Tensor, "B n"]:
        """Stack the labels; rows to predict have none."""
        n = max(len(row.label or ()) for row in rows)
        return torch.tensor([row.label or (0,) * n for row in rows], dtype=torch.float32)

    def logits(
        self, spec: TaskSpec, head: nn.Module, hidden: Float[Tensor, "N T C"], batch: TaskBatch, dropout: nn.Module
    ) -> Float[Tensor, "B n"]:
        """Apply the head to the mean of the hidden states, or to the last one with ``pool = "last"``."""
        logits: Tensor = head(dropout(pooled_states(spec, hidden, batch).sum(1)))
        return logits

    def losses(
        self, logits: Float[Tensor, "B n"], batch: TaskBatch, class_weights: Tensor | None = None
    ) -> Float[Tensor, " B"]:
        """Compute the loss of each row in nats, summed over labels."""
        labels = batch.labels if batch.labels.shape[1] else torch.zeros_like(logits)
        return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").sum(-1)

    def predict(self, logits: Float[Tensor, "B n"], rows: Sequence[EncodedExample]) -> list[tuple[Label, np.ndarray]]:
        """Predict every label with a probability above a half."""
        probabilities = logits.sigmoid().cpu().numpy()
        return [(tuple(int(p > 0.5) for p in row), row) for row in probabilities]

    def reported_metrics(self, spec: TaskSpec) -> list[str]:
        """Report subset accuracy."""
        return ["subset_accuracy"]

    def format_label(self, spec: TaskSpec, label: Label) -> Any:
        """Return the names of the labels."""
        return [name for name, present in zip(spec.labels, label or (), strict=False) if present]

    def format_prediction(self, spec: TaskSpec, prediction: Prediction) -> dict[str, Any]:
        """Return the labels, and the probability of each."""
        probabilities = {name: float(p) for name, p in zip(spec.labels, prediction.probabilities, strict=True)}
        return {"labels": self.format_label(spec, prediction.label), "probabilities": probabilities}


KIND = TaskKind(TextInput(), MultiLabelHead())
