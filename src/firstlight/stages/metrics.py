"""``firstlight.metrics``: the metrics that a run has logged, as arrays."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from firstlight import progress
from firstlight.errors import StorageError, UsageError
from firstlight.files import storage_errors
from firstlight.files.json_lines import JsonLines
from firstlight.files.run_names import parse_run_path
from firstlight.report.metric_lines import metric_chunks
from firstlight.runs import RunDirectory
from firstlight.shell import command_line, install_command

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, np.dtype[Any]]


class Curve(NamedTuple):
    """A metric over the steps of a run: two arrays of one length, without gaps.

    ``plt.plot(*curve)`` draws it.

    Attributes:
        steps: ascending, int64; each step once.
        values: float64; one that was not finite is NaN or infinite.
    """

    steps: Array
    values: Array


class RunMetrics(Mapping[str, Curve]):
    """The metrics of a run by the names that metrics.jsonl has, such as ``loss`` and ``valid_loss``.

    Args:
        curves: by name, in the order in which they were first logged.
    """

    def __init__(self, curves: Mapping[str, Curve]) -> None:
        self._curves = dict(curves)

    def __getitem__(self, name: str) -> Curve:
        if name not in self._curves:
            raise KeyError(f"{name!r} was not logged; there are {', '.join(self._curves) or 'no metrics'}")
        return self._curves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._curves)

    def __len__(self) -> int:
        return len(self._curves)

    def __repr__(self) -> str:
        points = ", ".join(f"{name}: {len(curve.steps):,}" for name, curve in self._curves.items())
        return f"{type(self).__name__}({points})"

    def to_pandas(self) -> "pd.DataFrame":
        """Return a DataFrame: a row per step, a column of floats per metric, NaN where it was not logged at a step.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd  # optional
        except ImportError as error:
            fix = f"Run: {install_command('pandas')}"
            raise UsageError("a DataFrame needs pandas, which is not installed", fix=fix) from error
        columns = {name: pd.Series(curve.values, index=curve.steps) for name, curve in self._curves.items()}
        return pd.DataFrame(columns).rename_axis("step")


def metrics(run: str | Path) -> RunMetrics:
    """Read the metrics that a run has logged so far, also while it trains.

    Args:
        run: a run directory, its run.toml or one of its checkpoints.

    Returns:
        Each metric with its steps and values: ``metrics(run)["valid_loss"].values``. Of a step that was logged twice
        the later value counts. Lines that are damaged are left out, with a warning.

    Raises:
        UsageError: it is not a run directory, or has logged nothing.
        StorageError: the file cannot be read.
    """
    directory = RunDirectory(parse_run_path(run).run or Path(run))
    parts: dict[str, list[tuple[Array, Array]]] = {}
    path = directory.metrics
    try:
        with storage_errors(path), path.open("rb") as file:
            lines = JsonLines(file)
            for name, steps, values in metric_chunks(table for _, table in lines):
                parts.setdefault(name, []).append((steps, values))
    except (FileNotFoundError, NotADirectoryError, StorageError) as error:
        if isinstance(error, StorageError) and directory.path.is_dir():
            raise
        problem = "has logged no metrics" if directory.exists else "not a run directory"
        fix = f"List the runs: {command_line('runs', directory.path.parent)}"
        raise UsageError(problem, where=directory.path, fix=fix) from error
    if damage := lines.describe_damage():
        progress.warn(f"{path}: {damage}; left out")
    parts.pop("step", None)
    return RunMetrics({name: _curve(found) for name, found in parts.items()})


def _curve(parts: list[tuple[Array, Array]]) -> Curve:
    """Join the chunks of a metric: ascending steps, each once, with the value that was logged last."""
    steps = np.concatenate([steps for steps, _ in parts]).astype(np.int64)
    values = np.concatenate([values for _, values in parts])
    last_first, index = np.unique(steps[::-1], return_index=True)
    return Curve(last_first, values[::-1][index])
