"""``runs``: list the run directories below a folder with their state and metrics, and compare two of them."""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from firstlight.config import flatten
from firstlight.errors import UsageError
from firstlight.files import run_layout
from firstlight.files.json_lines import JsonLines
from firstlight.files.run_names import parse_run_path
from firstlight.report import non_text
from firstlight.report.run_files import RunFiles, read_metrics, read_run
from firstlight.report.summary import best_score, last_step, parameters, training_seconds, training_tokens
from firstlight.report.tasks import task_metrics
from firstlight.runs import OutsideInput, RunDirectory, outside_inputs
from firstlight.shell import command_line
from firstlight.stages.comparable import incomparable

State = Literal["running", "finished", "stopped", "interrupted", "failed", "incomplete"]

_MAX_DEPTH = 4  # of run directories below the folder that is listed
_RUN_FILES = (run_layout.SETTINGS, run_layout.STATE, run_layout.METRICS, run_layout.LOCK, run_layout.CHECKPOINTS)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run directory; values that its files do not have are None.

    Attributes:
        kind: pretrain or finetune, by its settings.
        state: running (a process holds its lock), finished, stopped (at train.stop_after),
            interrupted (by a signal), failed, or incomplete (killed).
        valid_loss: the lowest validation loss; of tasks with labels, that of the best checkpoint.
        task_metrics: of a fine-tuned run, each task's own metric as ``task/metric``, on its validation split.
        bits: per byte, per token or per dimension at that step, by name: ``{"bits_per_byte": 1.32}``.
        size_bytes: of all its files.
        seconds: training time, over all resumes.
        modified: time of the last change of its metrics or state, in seconds since the epoch.
        depends_on: what it needs that is not in its directory.
        problems: files that could not be read.
    """

    path: Path
    name: str
    kind: str | None
    state: State
    steps: int | None
    tokens: int | None
    valid_loss: float | None
    task_metrics: dict[str, float]
    bits: dict[str, float]
    parameters: int | None
    size_bytes: int
    seconds: float | None
    modified: float | None
    depends_on: list[OutsideInput]
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "path": str(self.path), "depends_on": [found.to_json() for found in self.depends_on]}


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs.

    Attributes:
        first, second: their summaries.
        settings: those that differ at the end, as ``{key: (first, second)}`` with None where not set.
        changes: of each run, the settings that changed during it: ``step 72: optim.lr changed from 0.02 to 0.005``.
        notes: why their validation losses do not compare, and checkpoints that stand for their runs here.
    """

    first: RunSummary
    second: RunSummary
    settings: dict[str, tuple[Any, Any]]
    changes: tuple[list[str], list[str]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "runs": [self.first.to_json(), self.second.to_json()],
            "settings": self.settings,
            "changes": self.changes,
            "notes": self.notes,
        }


def list_runs(folder: str | Path = "runs") -> list[RunSummary]:
    """Summarise every run directory below a folder, or the folder itself if it is a run; the latest first.

    Damaged and half-written runs are listed with what can be read of them.

    Raises:
        UsageError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError("no such folder", where=folder, fix="Name the folder that your runs are in.")
    found = [summarize_run(path, path.relative_to(folder).as_posix()) for path in _run_directories(folder, _MAX_DEPTH)]
    return sorted(found, key=lambda run: (-(run.modified or 0.0), run.name))


def compare_runs(first: str | Path, second: str | Path) -> RunComparison:
    """Compare the settings and metrics of two runs.

    Raises:
        UsageError: one of them is not a run directory.
    """
    paths = [_run_directory(path) for path in (first, second)]
    files = [read_run(path) for path in paths]
    settings = [flatten(found.settings) for found in files]
    keys = dict.fromkeys([*settings[0], *settings[1]])
    differing = {
        key: (settings[0].get(key), settings[1].get(key))
        for key in keys
        if settings[0].get(key) != settings[1].get(key)
    }
    changes = [_changes(path) for path in paths]
    runs = [summarize_run(path) for path in paths]
    notes = [note for path in (first, second) if (note := _whole_run(path))]
    notes += incomparable((runs[0].kind, runs[1].kind), files[0], files[1])
    return RunComparison(runs[0], runs[1], differing, (changes[0], changes[1]), notes)


def _whole_run(name: str | Path) -> str:
    """Say that a name of a checkpoint stands for its run."""
    named = parse_run_path(name)
    if named.checkpoint is None or named.run is None:
        return ""
    evaluate = command_line("evaluate", name)
    return f"{name} stands for the whole run, and its metrics are those of the best checkpoint; of this one: {evaluate}"


def summarize_run(path: Path, name: str | None = None) -> RunSummary:
    """Summarise a run directory from its files; never fails on what they contain."""
    directory, files = RunDirectory(path), read_metrics(path)
    best = best_score(files)
    bits = {} if best is None or best.bits is None else {non_text.key(files): best.bits}
    return RunSummary(
        path=path,
        name=directory.name if name in (None, ".") else str(name),
        kind=directory.kind,
        state=_state(directory, files),
        steps=last_step(files),
        tokens=_integer(training_tokens(files)),
        valid_loss=None if best is None else best.loss,
        task_metrics=task_metrics(files),
        bits=bits,
        parameters=_integer(parameters(files)),
        size_bytes=_size(path),
        seconds=training_seconds(files),
        modified=_modified(directory),
        depends_on=outside_inputs(directory),
        problems=files.problems,
    )


def _changes(path: Path) -> list[str]:
    """Return the changes of settings during a run, which its settings file has the last values of."""
    try:
        with RunDirectory(path).events.open("rb") as file:
            events = [event for _, event in JsonLines(file) if event.get("kind") == "setting"]
    except OSError:
        return []
    return [f"step {event.get('step')}: {event.get('text')}" for event in events]


def _run_directories(folder: Path, depth: int, seen: set[Path] | None = None) -> Iterator[Path]:
    """Yield the run directories at or below a folder, each once; run directories are not searched for others."""
    seen = set() if seen is None else seen
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    if any((folder / name).exists() for name in _RUN_FILES):
        yield folder
        return
    if depth == 0:
        return
    try:
        below = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: (path.is_symlink(), path))
    except OSError:
        return
    for path in below:
        yield from _run_directories(path, depth - 1, seen)


def _run_directory(path: str | Path) -> Path:
    path = parse_run_path(path).run or Path(path)
    if not any((path / name).exists() for name in _RUN_FILES):
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        raise UsageError("not a run directory", where=path, fix=f"List the runs: {command_line('runs', folder)}")
    return path


def _state(directory: RunDirectory, files: RunFiles) -> State:
    if directory.is_locked():
        return "running"
    status = files.state.get("status")
    if status == "finished":
        return "finished"
    if status == "stopped":
        return "stopped"
    if status == "interrupted":
        return "interrupted"
    return "failed" if status == "failed" else "incomplete"


def _integer(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - of many files, faster
            except OSError:  # removed meanwhile
                continue
    return total


def _modified(directory: RunDirectory) -> float | None:
    times = []
    for path in (directory.metrics, directory.state_file, directory.settings_file):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)
