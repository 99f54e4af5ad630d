"""The nouns that rooms exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus, or one piece of a long one.

    Attributes:
        content: text, or an array: of pixels ((H, W) or (H, W, 3), uint8) or of ids (1-D).
        source: where it came from: ``path``, or ``path:line`` in files of many documents.
        meta: what else its reader knew.
        continues: the next Document is the next piece of this same document. A long text
            arrives in pieces so that memory does not grow with it.
    """

    content: str | np.ndarray
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False


class Vocabulary(Protocol):
    """What ids there are, whatever they stand for: pieces of text, pixels, or nothing that we know."""

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this, less one."""
        ...

    @property
    def eot_id(self) -> int:
        """The id that ends a document; -1 where none does."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the ids."""
        ...

    def byte_lengths(self) -> np.ndarray:
        """Return how many UTF-8 bytes of text each id stands for (int32, (V,)); 0 where it stands for none."""
        ...


@runtime_checkable
class Encoder(Vocabulary, Protocol):
    """What the store needs to know of a tokenizer; it never imports that room."""

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts end to end (int32, 1-D) and each text's count (int64)."""
        ...

    def split_point(self, text: str) -> int:
        """Return an i near the end for which ids(text[:i]) + ids(text[i:] + more) = ids(text + more), for any more."""
        ...


class IdVocabulary(Vocabulary, Protocol):
    """What the store needs to know where documents are ids already."""

    @property
    def sequence_length(self) -> int | None:
        """How many ids every document has; None where they may have any number."""
        ...


class BatchLike(Protocol):
    """What the loop needs to know of a batch: rows that can be taken in pieces, and the weight of their targets."""

    @property
    def n_rows(self) -> int:
        """How many there are."""
        ...

    def count_targets(self) -> Tensor:
        """Return the weight of the targets, and how many of them have any: (2,) float64."""
        ...

    def slice_rows(self, rows: slice, device: torch.device) -> BatchLike:
        """Return some of the rows, on a device."""
        ...

    def loss_args(self) -> tuple[Any, ...]:
        """Return what the loss module is given."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens and what follows each of them.

    Attributes:
        inputs: (B, T) int64.
        targets: (B, T) int64.
        weights: (B, T) float32, or None where every target counts once; 0 masks a target.
        starts: (B, T) bool, True where a document begins, or None where rows are attended as one text.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None
    starts: Tensor | None = None

    @property
    def n_rows(self) -> int:
        """B."""
        return int(self.inputs.shape[0])

    def count_targets(self) -> Tensor:
        """Return the weight of the targets, and how many of them have any: (2,) float64."""
        import torch

        if self.weights is None:
            return torch.full((2,), self.targets.numel(), dtype=torch.float64)
        return torch.stack([self.weights.double().sum(), (self.weights != 0).sum(dtype=torch.float64)])

    def slice_rows(self, rows: slice, device: torch.device) -> Batch:
        """Return some of the rows, on a device."""
        parts = (self.inputs, self.targets, self.weights, self.starts)
        moved = [None if part is None else part[rows].to(device, non_blocking=True) for part in parts]
        return Batch(*moved)  # type: ignore[arg-type]  # what is not None stays so

    def loss_args(self) -> tuple[Any, ...]:
        """Return what the loss module is given."""
        return self.inputs, self.targets, self.weights, self.starts


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimiser step did; plain numbers.

    Attributes:
        step: number of the step, from 1.
        tokens: targets seen so far, this step included.
        position: first row of this step's batch in the order of the data.
        rows: rows of this step's batch, all processes together.
        targets: targets of this step, all processes together.
        loss: mean negative log-likelihood per target, in nats.
        lr: learning rate of the first group.
        grad_norm: norm of the gradient before clipping.
        seconds: wall time of the step.
        applied: False where the update was left out because loss or gradient was not finite.
    """

    step: int
    tokens: int
    position: int
    rows: int
    targets: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    applied: bool = True
