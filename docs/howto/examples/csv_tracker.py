"""A tracker that writes metrics as CSV: one line per step and metric."""

import csv
from collections.abc import Mapping
from pathlib import Path


class CSVTracker:
    """Writes ``metrics.csv`` in the run directory, and appends to it when the run is resumed."""

    def __init__(self, run: Path) -> None:
        self._file = (run / "metrics.csv").open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        if self._file.tell() == 0:
            self._writer.writerow(["step", "metric", "value"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        self._writer.writerows((step, name, value) for name, value in metrics.items())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
