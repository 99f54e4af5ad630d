"""What the mixture draws from: the rows of a task, and the text that a model was pre-trained on."""

from collections.abc import Sequence

import numpy as np
import torch

from firstlight.finetuning.loss import TaskBatch, collate
from firstlight.finetuning.preprocess import EncodedExample
from firstlight.finetuning.spec import TaskSpec
from firstlight.store import Split


class TaskRows:
    """The training rows of one task."""

    def __init__(self, spec: TaskSpec, rows: Sequence[EncodedExample]) -> None:
        self._spec, self._rows = spec, rows

    @property
    def name(self) -> str:
        """The task's."""
        return self._spec.name

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self._rows)

    def batch(self, numbers: np.ndarray) -> TaskBatch:
        """Return the batch of these rows, in the order of their widths, so that its pieces are padded little."""
        rows = sorted((self._rows[n] for n in numbers.tolist()), key=lambda row: row.width)
        return collate(self.name, rows, scored=self._spec.scored)

    def where(self, number: int) -> str:
        """Return where a row came from."""
        return self._rows[number].where


class ReplaySource:
    """Windows of a pre-training text, learnt as text, so that what it taught is not forgotten.

    Args:
        split: of the run's store.
        width: tokens of a window.
    """

    name = "replay"

    def __init__(self, split: Split, width: int) -> None:
        self._split, self._T = split, min(width, split.n_tokens)

    @property
    def n_rows(self) -> int:
        """Windows that the text has."""
        return self._split.n_tokens // self._T

    def batch(self, numbers: np.ndarray) -> TaskBatch:
        """Return the batch of these windows."""
        at = numbers[:, None] * self._T + np.arange(self._T)
        ids = torch.from_numpy(np.asarray(self._split.tokens[at], dtype=np.int64))[:, None]  # (B, 1, T)
        learnt = torch.ones(ids.shape, dtype=torch.float32)
        learnt[..., -1] = 0
        B = len(numbers)
        none = torch.zeros((B, 0), dtype=torch.int64)
        return TaskBatch(
            self.name,
            ids,
            torch.ones((B, 1), dtype=torch.bool),
            none,
            none.bool(),
            torch.zeros(B, dtype=torch.int64),
            learnt,
            torch.full((B,), self._T),
        )

    def where(self, number: int) -> str:
        """Return where a window came from."""
        first = number * self._T
        return ", ".join(self._split.document_names(first, first + self._T))
