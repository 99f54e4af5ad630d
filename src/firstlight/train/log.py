"""The log of a run: metrics.jsonl, samples.jsonl, events.jsonl, and experiment trackers."""

import contextlib
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.errors import MissingExtra, StorageError, TrainingError
from firstlight.files import append_line, finite_json, storage_errors
from firstlight.files.json_lines import JsonLines
from firstlight.files.run_layout import EVENTS, LOCK, METRICS, SAMPLES
from firstlight.train.trackers import AUTO_TRACKERS, Tracker, load_trackers


class RunGuard:
    """Refuses to write into a run directory that somebody has deleted or moved, where a write would create it again.

    Args:
        run: the run directory; its lock is looked at, if it is there, since that goes first while it is being deleted.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._marker = next((path for path in (run / LOCK, run) if path.exists()), None)

    def check(self) -> None:
        """Check that the directory is still there.

        Raises:
            TrainingError: it is not.
        """
        if self._marker is not None and not self._marker.exists():
            raise TrainingError(
                "the run directory was deleted or moved while the run was training",
                where=self._run,
                fix="Put it back and continue with --resume, or start the run again.",
            )


class RunLog:
    """Appends to the log files of a run directory, and passes metrics on to trackers.

    A line that cannot be written is kept in memory and written before the next one, so that a full disk does not end a
    run before its next checkpoint.

    Args:
        run: the run directory.
        active: whether this process writes; only the first one does.
        trackers: names from TRACKERS or ``package.module:Class``; "auto": those of AUTO_TRACKERS that are installed.

    Raises:
        UsageError: an unknown tracker, or one without the interface of Tracker.
    """

    def __init__(self, run: Path, *, active: bool, trackers: list[str] | str) -> None:
        self.run = run
        self._guard = RunGuard(run)
        self._active = active
        self._unwritten: dict[str, list[str]] = {}
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._trackers: dict[str, type[Tracker]] = {}
        self._auto = False
        self._last_sample_step: float | None = None
        if active and trackers:
            self._auto = isinstance(trackers, str)
            self._trackers = load_trackers(AUTO_TRACKERS if isinstance(trackers, str) else trackers)

    def metrics(self, **metrics: Any) -> None:
        """Add a line to metrics.jsonl; a value that is not finite is written as a string, never dropped."""
        if not self._active:
            return
        self._append(METRICS, json.dumps(finite_json(metrics)))
        if self._trackers:
            self._start_tracking()
            scalars = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and k != "step"}
            self._queue.put((int(metrics["step"]), scalars))

    def sample(self, **fields: Any) -> None:
        """Add a line to samples.jsonl."""
        if self._active:
            self._last_sample_step = fields["step"]
            self._append(SAMPLES, json.dumps(fields, ensure_ascii=False))

    def event(self, step: int, kind: str, text: str, *, warn: bool = True) -> None:
        """Add a line to events.jsonl and report it to the user."""
        if self._active:
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "step": step, "kind": kind, "text": text}
            self._append(EVENTS, json.dumps(line, ensure_ascii=False))
            progress.notice(f"step {step}: {text}", level="warning" if warn else "info")

    def has_sample(self, step: int) -> bool:
        """Return whether the last line of samples.jsonl is of this step, perhaps by a process that was killed."""
        return self._last_sample_step == step

    def truncate(self, step: int, *, evaluated: bool = True) -> None:
        """Remove the lines of metrics.jsonl and samples.jsonl after ``step``, and incomplete last lines.

        Lines before it that are damaged stay, with a warning.

        Args:
            step: of the checkpoint that training goes on from.
            evaluated: whether that checkpoint counts the evaluation of its step; if not, its line is removed too.
        """
        if not self._active:
            return
        for name in (METRICS, SAMPLES):
            unwritten = self._unwritten.get(name, [])
            self._unwritten[name] = [line for line in unwritten if _step_of(json.loads(line)) <= step]
        self._truncate_file(
            self.run / METRICS,
            lambda line: (
                step < 0 or _step_of(line) > step or (not evaluated and _step_of(line) == step and "valid_loss" in line)
            ),
        )
        self._last_sample_step = self._truncate_file(self.run / SAMPLES, lambda line: step < 0 or _step_of(line) > step)
        self._truncate_file(self.run / EVENTS, lambda _: False)

    def close(self) -> None:
        """Write the lines that could not be written so far, and close the trackers.

        ``check_complete`` then tells whether lines are missing.
        """
        for name, lines in self._unwritten.items():
            if lines:
                self._append(name, lines.pop())
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=30)
            self._thread = None
        self._trackers = {}

    def check_complete(self) -> None:
        """Check that every line has been written.

        Raises:
            StorageError: some could not be written to the end.
        """
        missing = {name: len(lines) for name, lines in self._unwritten.items() if lines}
        if missing:
            name, n = next(iter(missing.items()))
            raise StorageError(
                f"the last {n:,} lines could not be written",
                where=self.run / name,
                fix="The checkpoint is saved. Make the disk writable and use --resume; those lines are lost.",
            )

    def _truncate_file(self, path: Path, is_after: Callable[[Any], bool]) -> float | None:
        """Truncate a file in place where all further lines are after the checkpoint; return the last step before."""
        last = None
        if not path.is_file():
            return last
        with storage_errors(path), path.open("rb+") as file:
            lines, end, n_after, n_unordered = JsonLines(file), None, 0, 0
            for offset, table in lines:
                if is_after(table):
                    end, n_after = offset if end is None else end, n_after + 1
                else:
                    n_unordered += n_after
                    end, n_after, last = None, 0, _step_of(table)
            if end is None:
                end = lines.incomplete_at
            if end is not None:
                file.truncate(end)
            elif not lines.ends_line:
                file.write(b"\n")
        if lines.incomplete_at is not None:
            progress.notice(f"{path}: the last line was incomplete and was removed")
            lines.incomplete_at = None
        if n_unordered:
            progress.warn(f"{path}: {n_unordered} lines have a step beyond the lines after them; kept as they are")
        if lines.n_damaged and end != 0:
            progress.warn(f"{path}: {lines.describe_damage()}; kept, but left out of the report")
        return last

    def _start_tracking(self) -> None:
        """Start the thread of the trackers with the first metrics.

        A tracker writes files of its own into the run directory. In one that has no settings yet they would look like
        somebody else's, and a run that is killed then could not be started again.
        """
        if self._thread is None:
            arguments = (self._trackers, self._auto)
            self._thread = threading.Thread(target=self._track, args=arguments, daemon=True, name="trackers")
            self._thread.start()

    def _append(self, name: str, line: str) -> None:
        self._guard.check()
        path, lines = self.run / name, self._unwritten.setdefault(name, [])
        lines.append(line)
        size = path.stat().st_size if path.is_file() else 0
        try:
            append_line(path, "\n".join(lines))
        except StorageError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, size)  # a partial line would corrupt the next one
            if len(lines) == 1:
                progress.warn(f"{error} Lines are kept in memory until it can be written.")
        else:
            lines.clear()

    def _track(self, classes: Mapping[str, type[Tracker]], optional: bool) -> None:
        """Open the trackers and pass them the queued metrics: the thread's target."""
        trackers: dict[str, Tracker] = {}
        for name, cls in classes.items():
            try:
                trackers[name] = cls(self.run)
            except MissingExtra as error:
                if not optional:
                    progress.warn(f"tracker {name} is off: {error} All metrics are in metrics.jsonl.")
            except Exception as error:  # noqa: BLE001 - a tracker must never end a run
                progress.warn(f"tracker {name} is off: {error}")
        while True:
            item = self._queue.get()
            for name, tracker in list(trackers.items()):
                try:
                    tracker.close() if item is None else tracker.log(*item)
                except Exception as error:  # noqa: BLE001 - a tracker must never end a run
                    progress.warn(f"tracker {name} is off: {error}")
                    del trackers[name]
            if item is None:
                return


def _step_of(table: Mapping[str, Any]) -> float:
    step = table.get("step")
    return step if isinstance(step, int | float) else -math.inf
