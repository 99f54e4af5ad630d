"""Sources of a mixture: the rows of a task, and the text that a model was pre-trained on."""

from collections.abc import Sequence

import numpy as np
import torch

from firstlight.finetuning.examples import EncodedExample, TaskBatch
from firstlight.finetuning.loss import collate
from firstlight.finetuning.spec import TaskSpec
from firstlight.store import Split


class TaskRows:
    """The training rows of one task."""

    def __init__(self, spec: TaskSpec, rows: Sequence[EncodedExample]) -> None:
        self._spec, self._rows = spec, rows

    @property
    def name(self) -> str:
        """Name of the task."""
        return self._spec.name

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def batch(self, indices: np.ndarray) -> TaskBatch:
        """Return the batch of these rows, sorted by length, so that its pieces need little padding."""
        return collate(self._spec, sorted((self._rows[i] for i in indices.tolist()), key=lambda row: row.length))

    def where(self, index: int) -> str:
        """Return the file and line of a row."""
        return self._rows[index].where


class ReplaySource:
    """Windows of a pre-training text, for the language model's loss, against catastrophic forgetting.

    Args:
        split: of the run's store.
        block_size: tokens per window.
    """

    name = "replay"

    def __init__(self, split: Split, block_size: int) -> None:
        self._split, self._T = split, min(block_size, split.n_tokens)

    @property
    def n_rows(self) -> int:
        """Number of windows in the text."""
        return self._split.n_tokens // self._T

    def batch(self, indices: np.ndarray) -> TaskBatch:
        """Return the batch of these windows."""
        windows = np.empty((len(indices), self._T), self._split.dtype)
        for row, index in zip(windows, indices.tolist(), strict=True):
            self._split.read(index * self._T, row)
        ids = torch.from_numpy(windows.astype(np.int64))[:, None]  # (B, 1, T)
        lm_weights = torch.ones(ids.shape, dtype=torch.float32)
        lm_weights[..., -1] = 0
        B = len(indices)
        no_positions = torch.zeros((B, 0), dtype=torch.int64)
        return TaskBatch(
            task=self.name,
            input_ids=ids,
            sequence_mask=torch.ones((B, 1), dtype=torch.bool),
            positions=no_positions,
            position_mask=no_positions.bool(),
            labels=torch.zeros(B, dtype=torch.int64),
            lm_weights=lm_weights,
            lengths=torch.full((B,), self._T),
            n_targets=torch.full((B,), float(self._T - 1), dtype=torch.float64),
        )

    def where(self, index: int) -> str:
        """Return the documents of a window."""
        first = index * self._T
        return ", ".join(self._split.document_names(first, first + self._T))
