"""The lines of metrics.jsonl as numbers: by metric, in chunks, since there may be millions of lines."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from firstlight.report.units import to_float

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK_LINES = 2000


def metric_chunks(lines: Iterator[Mapping[str, Any]]) -> Iterator[tuple[str, Array, Array]]:
    """Yield the name of a metric, steps and values, both float64 and in the order of the lines, again and again.

    Values that are not finite are strings in the file, and floats here. What is not a number is left out, and so are
    lines without a step.
    """
    while tables := list(islice(lines, _CHUNK_LINES)):
        rows_by_names: dict[tuple[str, ...], list[Iterable[Any]]] = {}
        for table in tables:
            rows_by_names.setdefault(tuple(table), []).append(table.values())
        for names, rows in rows_by_names.items():
            if "step" not in names:
                continue
            columns = dict(zip(names, zip(*rows, strict=True), strict=True))
            step, _ = _to_floats(columns["step"])
            has_step = np.isfinite(step)
            for name, column in columns.items():
                floats, is_number = _to_floats(column)
                valid = is_number & has_step
                if valid.any():
                    yield name, step[valid], floats[valid]


def _to_floats(column: Sequence[Any]) -> tuple[Array, Array]:
    """Convert a column to float64, with a mask of the entries that are numbers."""
    if set(map(type, column)) <= {float, int}:
        try:
            return np.array(column, dtype=np.float64), np.ones(len(column), dtype=bool)
        except OverflowError:
            pass
    numbers = [to_float(value) for value in column]
    is_number = np.array([value is not None for value in numbers], dtype=bool)
    return np.array([math.nan if value is None else value for value in numbers], dtype=np.float64), is_number
