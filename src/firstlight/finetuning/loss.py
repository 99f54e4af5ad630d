"""What fine-tuning minimises: a head's loss on a task, plus the language-model loss of the same tokens.

L3 = L2 + lambda L1 (Radford et al. 2018, equation 5), each row's L1 being the mean over its tokens, as in the code that
the authors published. Chats, plain texts and replayed text have L1 alone, summed over their tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from firstlight.finetuning.preprocess import EncodedExample
from firstlight.finetuning.spec import TaskSpec
from firstlight.model import GPT, linear_cross_entropy


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """Rows of one task, padded at the right, where nothing is seen from.

    Attributes:
        task: its name.
        ids: (B, S, T) int64; S sequences a row: orders or answers.
        present: (B, S) bool, False for answers that a row does not have.
        reads: (B, R) int64, positions that a head reads: of the S sequences in turn, or of the words.
        read: (B, R) bool, False where a row has fewer.
        labels: (B,) or, of words, (B, R): classes as int64, scores as float32.
        learnt: (B, S, T) float32, the weight of each next token in the language-model loss.
        widths: (B,) int64, of each row's widest sequence.
    """

    task: str
    ids: Tensor
    present: Tensor
    reads: Tensor
    read: Tensor
    labels: Tensor
    learnt: Tensor
    widths: Tensor

    @property
    def n_rows(self) -> int:
        """B."""
        return int(self.ids.shape[0])

    def count_targets(self) -> Tensor:
        """Return the weight of the targets, and how many they are: rows, labelled words or tokens; (2,) float64."""
        if self.reads.shape[1] == 0:
            n = self.learnt.sum(dtype=torch.float64)
        elif self.labels.ndim == 2:
            n = self.read.sum(dtype=torch.float64)
        else:
            n = torch.tensor(float(self.n_rows), dtype=torch.float64)
        return torch.stack([n, n])

    def slice_rows(self, rows: slice, device: torch.device) -> "TaskBatch":
        """Return some rows, on a device, no wider than the widest of them."""
        widths = self.widths[rows]
        T = int(widths.max())
        cut = {name: getattr(self, name)[rows, ..., :T] for name in ("ids", "learnt")}
        cut |= {name: getattr(self, name)[rows] for name in ("present", "reads", "read", "labels")}
        return replace(self, widths=widths, **{k: v.to(device, non_blocking=True) for k, v in cut.items()})

    def loss_args(self) -> tuple[Any, ...]:
        """Return what the loss module is given."""
        return (self,)


def collate(task: str, rows: Sequence[EncodedExample], *, scored: bool) -> TaskBatch:
    """Put rows into one batch.

    Args:
        task: its name.
        rows: of one task, labelled.
        scored: labels are scores.
    """
    S, T = max(len(r.sequences) for r in rows), max(r.width for r in rows)
    B, R = len(rows), max(len(r.reads) for r in rows)
    ids, learnt = np.zeros((B, S, T), dtype=np.int64), np.zeros((B, S, T), dtype=np.float32)
    present, reads = np.zeros((B, S), dtype=bool), np.zeros((B, R), dtype=np.int64)
    read = np.zeros((B, R), dtype=bool)
    words = any(isinstance(r.label, tuple) for r in rows)
    labels = np.zeros((B, R) if words else B, dtype=np.float32 if scored else np.int64)
    for b, row in enumerate(rows):
        for s, sequence in enumerate(row.sequences):
            n = len(sequence)
            ids[b, s, :n] = sequence
            # Of the row's own text all is learnt, so that the mean over tokens is one a row.
            marks = row.learnt[1:] if row.learnt else 1 / max(1, n - 1) / len(row.sequences)
            learnt[b, s, : n - 1] = marks
        present[b, : len(row.sequences)] = True
        reads[b, : len(row.reads)], read[b, : len(row.reads)] = row.reads, True
        if isinstance(row.label, tuple):
            labels[b, : len(row.label)] = row.label
        elif row.label is not None:
            labels[b] = row.label
    widths = np.array([row.width for row in rows], dtype=np.int64)
    held = map(torch.from_numpy, (ids, present, reads, read, labels, learnt, widths))
    return TaskBatch(task, *held)


class TaskLoss(nn.Module):
    """The model with the losses of its tasks as ``forward``.

    Args:
        model: with a head for each task that has one.
        specs: the tasks by name.
        lm_weight: lambda.
        dropout: of what the heads read.
        class_weights: of a task's classes (n,), by its name, where they differ.
    """

    def __init__(
        self,
        model: GPT,
        specs: Mapping[str, TaskSpec],
        *,
        lm_weight: float,
        dropout: float,
        class_weights: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.model, self._specs, self._lm_weight = model, specs, lm_weight
        self.dropout = nn.Dropout(dropout)
        self._class_weights = class_weights

    def forward(self, batch: TaskBatch) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over rows (words, tokens), and their count."""
        spec = self._specs.get(batch.task)
        if spec is None or spec.kind in ("text", "chat"):
            return self._text(batch)
        lm_weight = self._lm_weight if self.training else 0.0
        hidden = last_hidden(self.model, batch, with_head=lm_weight > 0)
        logits = head_logits(self.model, spec, batch, hidden, self.dropout)
        total = linear_nll(spec, logits, batch, self._class_weights.get(batch.task)).sum()
        if lm_weight > 0:
            total = total + lm_weight * _language(self.model, hidden, batch)
        return total, batch.count_targets()[0]

    def _text(self, batch: TaskBatch) -> tuple[Tensor, Tensor]:
        hidden = last_hidden(self.model, batch, with_head=True)
        return _language(self.model, hidden, batch), batch.count_targets()[0]


def last_hidden(model: GPT, batch: TaskBatch, *, with_head: bool = False) -> Float[Tensor, "N T C"]:
    """Return the last hidden states of all sequences, B * S of them."""
    return model.hidden(batch.ids.flatten(0, 1), with_head=with_head)


def _language(model: GPT, hidden: Float[Tensor, "N T C"], batch: TaskBatch) -> Tensor:
    targets = batch.ids.flatten(0, 1).roll(-1, dims=1)
    return linear_cross_entropy(hidden, model.head_weight, targets, batch.learnt.flatten(0, 1)).sum


def head_logits(
    model: GPT, spec: TaskSpec, batch: TaskBatch, hidden: Float[Tensor, "N T C"], dropout: nn.Module
) -> Float[Tensor, "..."]:
    """Return what a task's head says: (B, n) for classes, (B,) for scores, (B, S) for answers, (B, R, n) for words."""
    B, S, _ = batch.ids.shape
    head = model.heads[spec.name]
    if spec.kind == "tokens":
        rows = torch.arange(B, device=hidden.device)[:, None]
        return head(dropout(hidden[rows, batch.reads]))  # type: ignore[no-any-return]
    read = pooled(hidden, batch.reads.flatten(), mean=spec.pool == "mean").view(B, S, -1)  # (B, S, C)
    if spec.kind == "choice":
        answers: Tensor = head(dropout(read)).squeeze(-1)
        return answers.masked_fill(~batch.present, float("-inf"))
    # Both orders of a similarity are summed before the head reads them.
    logits: Tensor = head(dropout(read.sum(1)))
    return logits.squeeze(-1) if spec.scored else logits


def pooled(hidden: Float[Tensor, "N T C"], last: Int[Tensor, " N"], *, mean: bool) -> Float[Tensor, "N C"]:
    """Return the hidden state of each text's last token, or the mean of all up to it."""
    if not mean:
        return hidden[torch.arange(len(last), device=last.device), last]
    seen = torch.arange(hidden.shape[1], device=last.device) <= last[:, None]  # (N, T)
    weights = seen.to(hidden.dtype) / (last[:, None] + 1)
    return torch.einsum("ntc,nt->nc", hidden, weights)


def linear_nll(
    spec: TaskSpec, logits: Float[Tensor, "..."], batch: TaskBatch, class_weights: Tensor | None = None
) -> Float[Tensor, "..."]:
    """Return each row's (word's) loss: nats of classes, squared error of scores."""
    labels: Int[Tensor, ...] = batch.labels
    if spec.scored:
        return (logits.float() - labels) ** 2
    weight = None if class_weights is None else class_weights.to(logits.device)
    if spec.kind == "tokens":
        nats = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), weight, reduction="none")
        seen: Bool[Tensor, " N"] = batch.read.flatten()
        return nats * seen
    return F.cross_entropy(logits.float(), labels, weight, reduction="none")
