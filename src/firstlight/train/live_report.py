"""The report of a run that is still training: rewritten at its evaluations, in at most 1 % of the run's time."""

import time
from collections.abc import Callable
from pathlib import Path

from firstlight import progress
from firstlight.files.run_layout import METRICS, REPORT

MAX_FRACTION = 0.01
# A first guess of how long a report takes in a run that goes on: the page itself, and reading its metrics.
_SECONDS, _BYTES_PER_SECOND = 0.5, 1e7


class LiveReport:
    """Rewrites the report of a run while it trains.

    The first report of a run is always written. Any further one is left out if all reports of this process, itself
    included, would take more than ``MAX_FRACTION`` of its time. A report that cannot be written never ends training;
    that is said once, and the next evaluation tries again.

    Args:
        run: the run directory.
        write: writes the report of a run directory.
    """

    def __init__(self, run: Path, write: Callable[[Path], object]) -> None:
        self._run, self._write = run, write
        self._spent = 0.0
        self._last: float | None = None  # seconds of the latest one
        self._has_failed = False

    def update(self, elapsed: float) -> None:
        """Rewrite the report if there is time for it.

        Args:
            elapsed: seconds since this process started.
        """
        is_first = not (self._run / REPORT).exists() and not self._has_failed
        if not is_first and self._spent + self._expected() > MAX_FRACTION * elapsed:
            return
        start = time.perf_counter()
        try:
            self._write(self._run)
        except Exception as error:  # noqa: BLE001 - a report must never end a run
            if not self._has_failed:
                progress.warn(f"the report cannot be written, and training goes on without it: {error}")
            self._has_failed = True
        self._last = time.perf_counter() - start
        self._spent += self._last

    def _expected(self) -> float:
        """Return the seconds that the next report is expected to take."""
        if self._last is not None:
            return self._last
        metrics = self._run / METRICS
        return _SECONDS + (metrics.stat().st_size if metrics.is_file() else 0) / _BYTES_PER_SECOND
