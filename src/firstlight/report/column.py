"""A metric over the steps of a run, of bounded size however many lines were logged."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_MAX_VALUES = 1 << 16


@dataclass(frozen=True, slots=True)
class Column:
    """One metric over the steps of a run; both arrays have the same length, and non-finite values are kept.

    Of a very long column some points are left out: see ColumnBuilder.

    Attributes:
        steps: ascending.
        values: one per step.
        left_out: number of further finite and non-finite values.
        sample: values at regular intervals, for the median; None: all are in ``values``.
    """

    steps: Array
    values: Array
    left_out: tuple[int, int] = (0, 0)
    sample: Array | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def last(self) -> float | None:
        """Return the latest value, or None."""
        return float(self.values[-1]) if len(self) else None

    def since(self, step: float) -> "Column":
        """Return the part from ``step`` on."""
        later = self.steps >= step
        return Column(self.steps[later], self.values[later])

    def last_step(self) -> float | None:
        """Return the latest step, or None."""
        return float(self.steps[-1]) if len(self) else None

    def n_finite(self) -> int:
        """Count the finite values."""
        return int(np.count_nonzero(np.isfinite(self.values))) + self.left_out[0]

    def n_not_finite(self) -> int:
        """Count the values that are not finite."""
        return int(np.count_nonzero(~np.isfinite(self.values))) + self.left_out[1]

    def median(self) -> float | None:
        """Return the median of the finite values."""
        values = self.values if self.sample is None else self.sample
        finite = values[np.isfinite(values)]
        with np.errstate(over="ignore"):
            return float(np.median(finite)) if len(finite) else None

    def at(self, step: float) -> float | None:
        """Return the value at a step, the latest one if there are several."""
        found = np.flatnonzero(self.steps == step)
        return float(self.values[found[-1]]) if len(found) else None

    def max(self) -> float | None:
        """Return the highest finite value."""
        finite = self.values[np.isfinite(self.values)]
        return float(np.max(finite)) if len(finite) else None

    def min(self) -> tuple[int, float] | None:
        """Return step and value of the lowest finite value."""
        finite = np.flatnonzero(np.isfinite(self.values))
        if not len(finite):
            return None
        index = int(finite[np.argmin(self.values[finite])])
        return int(self.steps[index]), float(self.values[index])


class ColumnBuilder:
    """Collects the values of a column in bounded memory.

    When there are too many, they are reduced to the lowest, the highest and the first non-finite value of each bucket
    of neighbours, so that no spike is lost; all buckets have the same size. Counts, extremes and the last value are
    exact.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array, Array]] = []  # index, step, value
        self._held = 0
        self._left_out = np.zeros(2, dtype=np.int64)
        self._samples: list[Array] = []
        self._n, self._stride, self._bucket = 0, 1, 1

    def add(self, steps: Array, values: Array) -> None:
        """Add values in the order of the file."""
        self._samples.append(values[-self._n % self._stride :: self._stride].copy())  # a view would hold them all
        self._parts.append((np.arange(self._n, self._n + len(values)), steps, values))
        self._n += len(values)
        self._held += len(values)
        if self._held > _MAX_VALUES:
            self._reduce()

    def build(self) -> Column:
        """Return the column, in the order of steps."""
        if self._bucket > 1:
            self._reduce()
        _, steps, values = self._merge()
        order = np.argsort(steps, kind="stable")
        finite, other = (int(n) for n in self._left_out)
        sample = np.concatenate(self._samples) if finite or other else None
        return Column(steps[order], values[order], (finite, other), sample)

    def _reduce(self) -> None:
        while 8 * self._n > _MAX_VALUES * self._bucket:
            self._bucket *= 2
        while self._n > _MAX_VALUES * self._stride:
            self._samples, self._stride = [np.concatenate(self._samples)[::2]], 2 * self._stride
        index, steps, values = self._merge()
        kept = _extremes(index // self._bucket, values)
        finite = np.isfinite(values[~kept])
        self._left_out += np.count_nonzero(finite), np.count_nonzero(~finite)
        self._parts, self._held = [(index[kept], steps[kept], values[kept])], int(kept.sum())

    def _merge(self) -> tuple[Array, Array, Array]:
        index, steps, values = zip(*self._parts, strict=True)
        return np.concatenate(index), np.concatenate(steps), np.concatenate(values)


def _extremes(bucket: Array, values: Array) -> Array:
    """Return the mask of the lowest, the highest and the first non-finite value of each bucket, and both ends."""
    finite = np.isfinite(values)
    firsts = np.flatnonzero(np.diff(bucket, prepend=-1))
    kept = np.zeros(len(values), dtype=bool)
    for key in (np.where(finite, values, np.inf), np.where(finite, -values, np.inf), finite):
        kept[np.lexsort((key, bucket))[firsts]] = True
    kept[[0, -1]] = True
    return kept
