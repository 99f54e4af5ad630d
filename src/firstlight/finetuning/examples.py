"""Data types of labelled tasks, from a row of a file to a batch and a prediction."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Label = int | float | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class RawExample:
    """A row whose label is still as the file has it.

    Attributes:
        texts: the parts of the input, as the task's kind defines them.
        label: text, a number or a list; None where the row has none.
        where: ``file:line``.
        roles: of a chat, the author of each text.
        choice_labels: of answers to choose from, the name of each, where they have names.
    """

    texts: tuple[str, ...]
    label: Any
    where: str
    roles: tuple[str, ...] = ()
    choice_labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A row whose label is what the head learns.

    Attributes:
        texts: (text,); or (first, second); or (question, answer, answer …), where
            an answer that the row does not have is empty; or words; or the messages of a chat.
        label: a class; a score from 0 to 1 of its scale; the index of the right answer; a class per word; or None.
        where: ``file:line``.
        roles: of a chat, the author of each text.
    """

    texts: tuple[str, ...]
    label: Label
    where: str
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A row as token ids.

    Attributes:
        sequences: one, or one per order of the parts or per answer.
        positions: of the last token of each sequence, or of each word; a head reads that, or the mean up to it.
        label: as in ``Example``.
        where: as in ``Example``.
        choices: of answers to choose from, which of the row's answers each sequence has.
        unk_tokens: unknown tokens of its texts, and characters of them that have no token.
        loss_mask: of chats and plain texts, whether each token of the only sequence is a target; else empty.
    """

    sequences: tuple[np.ndarray, ...]
    positions: tuple[int, ...]
    label: Label
    where: str
    loss_mask: tuple[bool, ...] = ()
    choices: tuple[int, ...] = ()
    unk_tokens: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)

    @property
    def n_targets(self) -> int:
        """Targets of the loss: tokens of chats and plain texts, else labels."""
        if self.loss_mask:
            return sum(self.loss_mask[1:])
        return len(self.positions) if isinstance(self.label, tuple) else 1


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """Rows of one task, padded on the right.

    Attributes:
        task: its name.
        input_ids: (B, S, T) int64; S sequences per row: orders of the parts, or answers.
        sequence_mask: (B, S) bool, False for answers that a row does not have.
        positions: (B, R) int64, of the last tokens of the S sequences in turn, or of the words.
        position_mask: (B, R) bool, False where a row has fewer.
        labels: as the task's head defines them; of classes (B,) int64, of scores (B,) float32.
        lm_weights: (B, S, T) float32, the weight of each next token in the language-model loss.
        lengths: (B,) int64, of each row's longest sequence.
        n_targets: (B,) float64 on the CPU, targets of each row's loss.
    """

    task: str
    input_ids: Int[Tensor, "B S T"]
    sequence_mask: Bool[Tensor, "B S"]
    positions: Int[Tensor, "B R"]
    position_mask: Bool[Tensor, "B R"]
    labels: Tensor
    lm_weights: Float[Tensor, "B S T"]
    lengths: Int[Tensor, " B"]
    n_targets: Float[Tensor, " B"]

    @property
    def n_rows(self) -> int:
        """B."""
        return int(self.input_ids.shape[0])

    def count_targets(self) -> Tensor:
        """Return the weight of the targets and their number, which are the same here: (2,) float64."""
        n = self.n_targets.sum()
        return torch.stack([n, n])

    def slice_rows(self, rows: slice, device: torch.device) -> "TaskBatch":
        """Return some rows on a device, padded to the longest of them only."""
        lengths = self.lengths[rows]
        T = int(lengths.max())
        moved = {name: getattr(self, name)[rows, ..., :T] for name in ("input_ids", "lm_weights")}
        moved |= {name: getattr(self, name)[rows] for name in ("sequence_mask", "positions", "position_mask", "labels")}
        on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in moved.items()}
        return replace(self, lengths=lengths, n_targets=self.n_targets[rows], **on_device)

    def loss_args(self) -> tuple[Any, ...]:
        """Return the arguments of the loss module."""
        return (self,)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a head predicts for one row.

    Attributes:
        label: as in ``Example``.
        probabilities: of each class or answer; of words (words, classes); empty for a score.
        loss: of the row; NaN where it has no label.
    """

    label: Label
    probabilities: np.ndarray
    loss: float
