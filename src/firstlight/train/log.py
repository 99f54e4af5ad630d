"""What a run writes about itself: metrics, samples, events, and trackers that follow along."""

import json
import math
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from firstlight import progress
from firstlight.config import load_object
from firstlight.errors import MissingExtra
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
        self._writer = SummaryWriter(str(run / "tensorboard"))  # type: ignore[no-untyped-call]

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one scalar a figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()  # type: ignore[no-untyped-call]


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard}


class RunLog:
    """Appends to the plain files of a run directory; silent in processes other than the first.

    Args:
        run: the run directory.
        active: whether this process writes.
        trackers: names from TRACKERS or ``module:Name``; "auto" takes TensorBoard where it is installed.
    """

    def __init__(self, run: Path, *, active: bool, trackers: list[str] | str) -> None:
        self.run = run
        self._active = active
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if active and trackers:
            names = ["tensorboard"] if trackers == "auto" else list(trackers)
            self._thread = threading.Thread(target=self._follow, args=(names, trackers == "auto"), daemon=True, name="trackers")
            self._thread.start()

    def metrics(self, **figures: Any) -> None:
        """Add a line to metrics.jsonl; a figure that is not finite is written as a string, never dropped."""
        if not self._active:
            return
        append_line(self.run / "metrics.jsonl", json.dumps({k: _plain(v) for k, v in figures.items()}))
        step = int(figures["step"])
        self._queue.put((step, {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and k != "step"}))

    def sample(self, **fields: Any) -> None:
        """Add a line to samples.jsonl."""
        if self._active:
            append_line(self.run / "samples.jsonl", json.dumps(fields, ensure_ascii=False))

    def event(self, step: int, kind: str, text: str, *, warn: bool = True) -> None:
        """Add a line to events.jsonl and tell the user."""
        if self._active:
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "step": step, "kind": kind, "text": text}
            append_line(self.run / "events.jsonl", json.dumps(line, ensure_ascii=False))
            progress.notice(f"step {step}: {text}", level="warning" if warn else "info")

    def cut_back(self, step: int) -> None:
        """Drop lines of metrics.jsonl and samples.jsonl after ``step``, and a half-written last line."""
        if not self._active:
            return
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.run / name
            if path.is_file():
                kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
                write_atomic(path, "".join(line + "\n" for line in kept))

    def close(self) -> None:
        """Let the trackers finish."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=30)
            self._thread = None

    def _follow(self, names: list[str], optional: bool) -> None:
        trackers: list[Tracker] = []
        for name in names:
            try:
                trackers.append(load_object(name, TRACKERS, kind="tracker")(self.run))
            except MissingExtra:
                if not optional:
                    progress.warn(f"tracker {name} is not installed; metrics.jsonl has all figures")
            except Exception as error:  # noqa: BLE001 - a tracker must never end a run
                progress.warn(f"tracker {name} is off: {error}")
        while (item := self._queue.get()) is not None:
            for tracker in list(trackers):
                try:
                    tracker.log(*item)
                except Exception as error:  # noqa: BLE001 - a tracker must never end a run
                    progress.warn(f"tracker {type(tracker).__name__} is off: {error}")
                    trackers.remove(tracker)
        for tracker in trackers:
            tracker.close()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
