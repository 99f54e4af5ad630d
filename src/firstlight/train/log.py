"""What a run writes about itself: metrics, samples, events, and trackers that follow along."""

import contextlib
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from firstlight import progress
from firstlight.config import load_object
from firstlight.errors import MissingExtra, StorageError
from firstlight.files import append_line, write_atomic


class Tracker(Protocol):
    """Whoever follows a run's figures."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of one step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """TensorBoard files below the run directory; its import is slow, so it lives in the tracker's thread."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("TensorBoard", "tensorboard") from error
        self._writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one scalar a figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard}

_Maker = Callable[[Path], Tracker]


class RunLog:
    """Appends to the plain files of a run directory; silent in processes other than the first.

    A line that the disk refuses is kept, and written before the next one: a full disk ends a run at its
    last checkpoint, not at a figure.

    Args:
        run: the run directory.
        active: whether this process writes.
        trackers: names from TRACKERS or ``module:Name``; "auto" takes TensorBoard where it is installed.

    Raises:
        UsageError: a tracker that there is none of.
    """

    def __init__(self, run: Path, *, active: bool, trackers: list[str] | str) -> None:
        self.run = run
        self._active = active
        self._held: dict[str, list[str]] = {}
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if active and trackers:
            names = ["tensorboard"] if isinstance(trackers, str) else trackers
            makers = {name: load_object(name, TRACKERS, kind="tracker") for name in names}
            arguments = (makers, isinstance(trackers, str))
            self._thread = threading.Thread(target=self._follow, args=arguments, daemon=True, name="trackers")
            self._thread.start()

    def metrics(self, **figures: Any) -> None:
        """Add a line to metrics.jsonl; a figure that is not finite is written as a string, never dropped."""
        if not self._active:
            return
        self._append("metrics.jsonl", json.dumps({k: _plain(v) for k, v in figures.items()}))
        if self._thread is not None:
            rest = {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and k != "step"}
            self._queue.put((int(figures["step"]), rest))

    def sample(self, **fields: Any) -> None:
        """Add a line to samples.jsonl."""
        if self._active:
            self._append("samples.jsonl", json.dumps(fields, ensure_ascii=False))

    def event(self, step: int, kind: str, text: str, *, warn: bool = True) -> None:
        """Add a line to events.jsonl and tell the user."""
        if self._active:
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "step": step, "kind": kind, "text": text}
            self._append("events.jsonl", json.dumps(line, ensure_ascii=False))
            progress.notice(f"step {step}: {text}", level="warning" if warn else "info")

    def cut_back(self, step: int) -> None:
        """Drop lines of metrics.jsonl and samples.jsonl after ``step``, and a half-written last line."""
        if not self._active:
            return
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.run / name
            self._held[name] = [line for line in self._held.get(name, []) if _step_of(line.encode()) <= step]
            if path.is_file():
                kept = [line for line in path.read_bytes().split(b"\n") if _step_of(line) <= step]
                write_atomic(path, b"".join(line + b"\n" for line in kept))

    def close(self) -> None:
        """Write what the disk refused so far, and let the trackers finish."""
        for name, held in self._held.items():
            if held:
                self._append(name, held.pop())
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=30)
            self._thread = None

    def _append(self, name: str, line: str) -> None:
        path, held = self.run / name, self._held.setdefault(name, [])
        held.append(line)
        size = path.stat().st_size if path.is_file() else 0
        try:
            append_line(path, "\n".join(held))
        except StorageError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, size)  # half a line would spoil the next one
            if len(held) == 1:
                progress.warn(f"{error} Until then, lines are kept in memory.")
        else:
            held.clear()

    def _follow(self, makers: Mapping[str, _Maker], optional: bool) -> None:
        trackers: dict[str, Tracker] = {}
        for name, make in makers.items():
            try:
                trackers[name] = make(self.run)
            except MissingExtra as error:
                if not optional:
                    progress.warn(f"tracker {name} is off: {error}; metrics.jsonl has all figures")
            except Exception as error:  # noqa: BLE001 - a tracker must never end a run
                progress.warn(f"tracker {name} is off: {error}")
        going = True
        while going:
            item = self._queue.get()
            going = item is not None
            for name, tracker in list(trackers.items()):
                try:
                    tracker.close() if item is None else tracker.log(*item)
                except Exception as error:  # noqa: BLE001 - a tracker must never end a run
                    progress.warn(f"tracker {name} is off: {error}")
                    del trackers[name]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
