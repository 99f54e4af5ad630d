"""The order of training rows from several tasks: a pure function of the position, as in pre-training.

The rows of an update are of one task. An epoch has a number of updates per task, set by the mixing, in random order;
the rows of a task are shuffled too, and all of them are used before any is used again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from firstlight.store import permute, round_keys
from firstlight.types import BatchLike


class RowSource(Protocol):
    """Rows by index: those of a task, or windows of a pre-training text."""

    @property
    def name(self) -> str:
        """Name of the task."""
        ...

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    def batch(self, indices: np.ndarray) -> BatchLike:
        """Return the batch of these rows."""
        ...

    def where(self, index: int) -> str:
        """Return the file and line of a row."""
        ...


def mixing_fractions(sizes: Sequence[int], mixing: str | float) -> list[float]:
    """Return the fraction of the updates that each task gets.

    Args:
        sizes: number of rows of each.
        mixing: proportional, equal, or a temperature t: proportional to size ** (1 / t) (Raffel et al. 2020).
    """
    temperature = {"proportional": 1.0, "equal": np.inf}.get(mixing, mixing) if isinstance(mixing, str) else mixing
    logs = np.log(sizes) / float(temperature)
    weights = np.exp(logs - logs.max())
    return [float(w) for w in weights / weights.sum()]


@dataclass(frozen=True, slots=True)
class Mixture:
    """The objective of the training loop: batches by position.

    Attributes:
        members: tasks, and optionally a replay.
        updates: updates of each source per epoch.
        rows: rows per update.
        seed: of every shuffle.
    """

    members: Sequence[RowSource]
    updates: Sequence[int]
    rows: int
    seed: int

    @classmethod
    def plan(
        cls, sources: Sequence[RowSource], *, rows: int, mixing: str | float, fixed: Mapping[str, float], seed: int
    ) -> "Mixture":
        """Divide an epoch among the sources; all rows of the tasks together set its number of updates.

        Args:
            sources: tasks first.
            rows: rows per update.
            mixing: as in ``mixing_fractions``, among the sources without a fixed fraction.
            fixed: fractions of all updates, by name, as of a replay.
            seed: of every shuffle.
        """
        free = [source for source in sources if source.name not in fixed]
        total = sum(-(-source.n_rows // rows) for source in free)
        parts = dict(zip([s.name for s in free], mixing_fractions([s.n_rows for s in free], mixing), strict=True))
        rest = 1 - sum(fixed.values())
        updates = [total * (parts[s.name] if s.name in parts else fixed[s.name] / rest) for s in sources]
        return cls(sources, [max(1, round(n)) for n in updates], rows, seed)

    @property
    def updates_per_epoch(self) -> int:
        """Updates of all sources per epoch."""
        return sum(self.updates)

    def batch(self, position: int, rows: int) -> BatchLike:
        """Return the rows from ``position`` to ``position + rows``, all of one update."""
        source, indices = self._rows(position, rows)
        return source.batch(indices)

    def sources(self, position: int, rows: int) -> list[str]:
        """Return the file and line of each of these rows."""
        source, indices = self._rows(position, rows)
        return [source.where(int(i)) for i in indices]

    def _rows(self, position: int, rows: int) -> tuple[RowSource, np.ndarray]:
        update, first = divmod(position, self.rows)
        epoch, slot = divmod(update, self.updates_per_epoch)
        n = self.updates_per_epoch
        shuffled = int(permute(np.array([slot]), n, round_keys(self.seed, "updates", epoch))[0])
        starts = np.cumsum([0, *self.updates])
        task = int(np.searchsorted(starts, shuffled, side="right")) - 1
        source = self.members[task]
        drawn = (epoch * self.updates[task] + shuffled - int(starts[task])) * self.rows + first + np.arange(rows)
        passes, offsets = np.divmod(drawn, source.n_rows)
        indices = np.empty(rows, dtype=np.int64)
        for number in np.unique(passes):
            mine = passes == number
            indices[mine] = permute(offsets[mine], source.n_rows, round_keys(self.seed, source.name, int(number)))
        return source, indices
