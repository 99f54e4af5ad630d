"""Which rows are trained on when: a pure function of the position, as in pre-training.

An update takes rows of one task. An epoch holds a number of updates of each task, by the mixing asked for, in a drawn
order; a task's own rows come in a drawn order too, all of them before any comes again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from firstlight.store import permute, round_keys
from firstlight.types import BatchLike


class RowSource(Protocol):
    """What a task, or the replay of a pre-training text, gives: rows by their number."""

    @property
    def name(self) -> str:
        """As its settings have it."""
        ...

    @property
    def n_rows(self) -> int:
        """How many there are."""
        ...

    def batch(self, numbers: np.ndarray) -> BatchLike:
        """Return the batch of these rows."""
        ...

    def where(self, number: int) -> str:
        """Return where a row came from."""
        ...


def mixing_fractions(sizes: Sequence[int], mixing: str | float) -> list[float]:
    """Return each task's share of the updates.

    Args:
        sizes: rows of each.
        mixing: proportional, equal, or a temperature t: in proportion to size ** (1 / t) (Raffel et al. 2020).
    """
    temperature = {"proportional": 1.0, "equal": np.inf}.get(mixing, mixing) if isinstance(mixing, str) else mixing
    logs = np.log(sizes) / float(temperature)
    weights = np.exp(logs - logs.max())
    return [float(w) for w in weights / weights.sum()]


@dataclass(frozen=True, slots=True)
class Mixture:
    """The objective of the loop: batches by position.

    Attributes:
        members: tasks, and perhaps a replay.
        updates: of each source in an epoch.
        rows: rows of an update.
        seed: of every order.
    """

    members: Sequence[RowSource]
    updates: Sequence[int]
    rows: int
    seed: int

    @classmethod
    def plan(
        cls, sources: Sequence[RowSource], *, rows: int, mixing: str | float, fixed: Mapping[str, float], seed: int
    ) -> "Mixture":
        """Give each source its updates: an epoch has as many as all tasks' rows fill.

        Args:
            sources: tasks first.
            rows: of an update.
            mixing: as in ``mixing_fractions``, among the sources without a fixed share.
            fixed: shares of the whole, by name, as of a replay.
            seed: of the orders.
        """
        free = [source for source in sources if source.name not in fixed]
        whole = sum(-(-source.n_rows // rows) for source in free)
        parts = dict(zip([s.name for s in free], mixing_fractions([s.n_rows for s in free], mixing), strict=True))
        left = 1 - sum(fixed.values())
        wanted = [whole * (parts[s.name] if s.name in parts else fixed[s.name] / left) for s in sources]
        return cls(sources, [max(1, round(n)) for n in wanted], rows, seed)

    @property
    def updates_per_epoch(self) -> int:
        """Updates of all sources in an epoch."""
        return sum(self.updates)

    def batch(self, position: int, rows: int) -> BatchLike:
        """Return rows ``position`` to ``position + rows``, all of one update: a pure function."""
        source, numbers = self._rows(position, rows)
        return source.batch(numbers)

    def sources(self, position: int, rows: int) -> list[str]:
        """Name the rows there."""
        source, numbers = self._rows(position, rows)
        return [source.where(int(n)) for n in numbers]

    def _rows(self, position: int, rows: int) -> tuple[RowSource, np.ndarray]:
        update, first = divmod(position, self.rows)
        epoch, slot = divmod(update, self.updates_per_epoch)
        n = self.updates_per_epoch
        place = int(permute(np.array([slot]), n, round_keys(self.seed, "updates", epoch))[0])
        begins = np.cumsum([0, *self.updates])
        task = int(np.searchsorted(begins, place, side="right")) - 1
        source = self.members[task]
        drawn = (epoch * self.updates[task] + place - int(begins[task])) * self.rows + first + np.arange(rows)
        passes, inside = np.divmod(drawn, source.n_rows)
        numbers = np.empty(rows, dtype=np.int64)
        for each in np.unique(passes):
            mine = passes == each
            numbers[mine] = permute(inside[mine], source.n_rows, round_keys(self.seed, source.name, int(each)))
        return source, numbers
