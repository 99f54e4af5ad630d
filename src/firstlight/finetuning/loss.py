"""The loss of fine-tuning: that of a task's head, plus the language-model loss of the same tokens.

L3 = L2 + lambda L1 (Radford et al. 2018, equation 5), each row's L1 being the mean over its tokens, as in the code that
the authors published. Chats, plain texts and replayed text have L1 alone, summed over their tokens.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstlight import parallel
from firstlight.finetuning.examples import EncodedExample, TaskBatch
from firstlight.finetuning.kinds import head_of
from firstlight.finetuning.spec import TaskSpec
from firstlight.model import GPT, linear_cross_entropy

_LM_ROWS = 16  # of one forward pass


def collate(spec: TaskSpec, rows: Sequence[EncodedExample]) -> TaskBatch:
    """Pad the rows of a task into one batch."""
    head = head_of(spec)
    labels = torch.zeros(len(rows), dtype=torch.int64) if head is None else head.collate_labels(rows)
    return pad(spec.name, rows, labels)


def pad(task: str, rows: Sequence[EncodedExample], labels: Tensor) -> TaskBatch:
    """Pad rows into one batch, with labels that are stacked already."""
    S, T = max(len(r.sequences) for r in rows), max(r.length for r in rows)
    B, R = len(rows), max(len(r.positions) for r in rows)
    input_ids, lm_weights = np.zeros((B, S, T), dtype=np.int64), np.zeros((B, S, T), dtype=np.float32)
    sequence_mask, positions = np.zeros((B, S), dtype=bool), np.zeros((B, R), dtype=np.int64)
    position_mask = np.zeros((B, R), dtype=bool)
    for b, row in enumerate(rows):
        for s, sequence in enumerate(row.sequences):
            n = len(sequence)
            input_ids[b, s, :n] = sequence
            # Where a head learns, every token counts, and the weights of a row sum to one: L1 is a mean.
            weights = row.loss_mask[1:] if row.loss_mask else 1 / max(1, n - 1) / len(row.sequences)
            lm_weights[b, s, : n - 1] = weights
        sequence_mask[b, : len(row.sequences)] = True
        positions[b, : len(row.positions)], position_mask[b, : len(row.positions)] = row.positions, True
    lengths = np.array([row.length for row in rows], dtype=np.int64)
    n_targets = np.array([row.n_targets for row in rows], dtype=np.float64)
    return TaskBatch(
        task=task,
        input_ids=torch.from_numpy(input_ids),
        sequence_mask=torch.from_numpy(sequence_mask),
        positions=torch.from_numpy(positions),
        position_mask=torch.from_numpy(position_mask),
        labels=labels,
        lm_weights=torch.from_numpy(lm_weights),
        lengths=torch.from_numpy(lengths),
        n_targets=torch.from_numpy(n_targets),
    )


class TaskLoss(nn.Module):
    """The model, with the losses of its tasks as ``forward``.

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
        self._heads = {name: head for name, spec in specs.items() if (head := head_of(spec)) is not None}
        self.dropout = nn.Dropout(dropout)
        self._class_weights = class_weights

    def forward(self, batch: TaskBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the sum of the loss over rows (words, tokens), their number, and the sums that it is made of.

        These are ``task_loss`` and ``lm_loss``: the loss is task_loss + lambda lm_loss, or lm_loss alone.
        """
        head = self._heads.get(batch.task)
        if head is None:
            hidden = last_hidden_states(self.model, batch, with_head=True)
            total = lm_loss(self.model, hidden, batch)
            return total, batch.count_targets()[0], {"lm_loss": total}
        lm_weight = self._lm_weight if self.training else 0.0
        hidden = last_hidden_states(self.model, batch, with_head=lm_weight > 0)
        spec, linear = self._specs[batch.task], self.model.heads[batch.task]
        logits = head.logits(spec, linear, hidden, batch, self.dropout)
        total = head.losses(logits, batch, self._class_weights.get(batch.task)).sum()
        parts = {"task_loss": total}
        if lm_weight > 0:
            parts["lm_loss"] = lm_loss(self.model, hidden, batch)
            total = total + lm_weight * parts["lm_loss"]
        return total, batch.count_targets()[0], parts


def last_hidden_states(model: GPT, batch: TaskBatch, *, with_head: bool = False) -> Float[Tensor, "N T C"]:
    """Return the last hidden states of all sequences, B * S of them."""
    return model.hidden(batch.input_ids.flatten(0, 1), with_head=with_head)


def lm_loss(model: GPT, hidden: Float[Tensor, "N T C"], batch: TaskBatch) -> Tensor:
    """Return the weighted sum of the next tokens' cross-entropy."""
    targets = batch.input_ids.flatten(0, 1).roll(-1, dims=1)
    return linear_cross_entropy(hidden, model.head_weight, targets, batch.lm_weights.flatten(0, 1)).sum


@torch.no_grad()
def evaluate_lm_loss(
    model: GPT,
    spec: TaskSpec,
    rows: Sequence[EncodedExample],
    device_context: parallel.DeviceContext,
    *,
    on_rows: Callable[[int], object] = lambda _: None,
) -> float:
    """Return the language-model loss of a task without a head, in nats per token; NaN where there is no target.

    ``on_rows`` is called with the number of rows of each forward pass.
    """
    module, total, count = TaskLoss(model, {spec.name: spec}, lm_weight=0, dropout=0, class_weights={}), 0.0, 0.0
    was_training = model.training
    model.eval()
    for first in range(0, len(rows), _LM_ROWS):
        batch = collate(spec, rows[first : first + _LM_ROWS]).slice_rows(slice(None), device_context.device)
        with parallel.autocast(device_context):
            loss, n, _ = module(batch)
        total, count = total + float(loss), count + float(n)
        on_rows(batch.n_rows)
    model.train(was_training)
    return total / count if count else float("nan")


def balanced_class_weights(spec: TaskSpec, rows: Sequence[EncodedExample]) -> Float[Tensor, " n"]:
    """Return weights with which every class contributes the same to the loss of the rows."""
    labels = np.concatenate([np.atleast_1d(np.asarray(row.label)) for row in rows])
    counts = np.bincount(labels.astype(np.int64), minlength=len(spec.labels))
    return torch.tensor(len(labels) / (len(spec.labels) * np.maximum(counts, 1)), dtype=torch.float32)
