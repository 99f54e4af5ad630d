"""Read the plain files of a run directory; what is missing or unreadable is empty, and named."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.report.units import number

Array = np.ndarray[Any, np.dtype[Any]]
Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One figure over the run; both arrays have the same length, and not-finite figures stay in."""

    steps: Array
    values: Array

    def __len__(self) -> int:
        return len(self.steps)

    def last(self) -> float | None:
        """Return the newest figure."""
        return float(self.values[-1]) if len(self) else None

    def median(self) -> float | None:
        """Return the median of the finite figures."""
        finite = self.values[np.isfinite(self.values)]
        return float(np.median(finite)) if len(finite) else None

    def least(self) -> tuple[int, float] | None:
        """Return step and value of the lowest finite figure."""
        finite = np.flatnonzero(np.isfinite(self.values))
        if not len(finite):
            return None
        at = int(finite[np.argmin(self.values[finite])])
        return int(self.steps[at]), float(self.values[at])


EMPTY = Column(np.empty(0), np.empty(0))


@dataclass(slots=True)
class RunFiles:
    """What a run directory says; every table may be empty.

    Attributes:
        settings_text: run.toml as it stands.
        metrics: columns of metrics.jsonl by name.
        config: config.json of the checkpoint that RUN means.
        checkpoint: that checkpoint's folder, relative to the run: ``best``, else ``latest``, else the newest.
        weights: numbers in its model.safetensors, or None.
        present: files that exist, relative to the run.
        problems: what could not be read, one clause a file.
    """

    run: Path
    settings: Table = field(default_factory=dict)
    settings_text: str = ""
    metrics: dict[str, Column] = field(default_factory=dict)
    samples: list[Table] = field(default_factory=list)
    events: list[Table] = field(default_factory=list)
    manifest: Table = field(default_factory=dict)
    tokenizer: Table = field(default_factory=dict)
    config: Table = field(default_factory=dict)
    evaluation: Table = field(default_factory=dict)
    environment: Table = field(default_factory=dict)
    contract: Table = field(default_factory=dict)
    state: Table = field(default_factory=dict)
    checkpoint: str | None = None
    checkpoints: list[str] = field(default_factory=list)
    weights: int | None = None
    present: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def column(self, name: str) -> Column:
        """Return a column of metrics.jsonl; an empty one where it was never recorded."""
        return self.metrics.get(name, EMPTY)


def read_run(run: Path) -> RunFiles:
    """Read everything that a report needs; never fails on what a file holds."""
    files = RunFiles(run)
    files.settings_text = _text(files, "run.toml")
    try:
        files.settings = tomllib.loads(files.settings_text)
    except tomllib.TOMLDecodeError as error:
        files.problems.append(f"run.toml is not valid TOML: {error}")
    for name in ("evaluation", "environment", "contract", "state"):
        setattr(files, name, _table(files, f"{name}.json"))
    files.manifest = _table(files, "data/manifest.json")
    files.tokenizer = _table(files, "tokenizer/tokenizer.json")
    files.samples = list(_lines(files, "samples.jsonl"))
    files.events = list(_lines(files, "events.jsonl"))
    files.metrics = _columns(_lines(files, "metrics.jsonl"))
    _checkpoint(files)
    return files


def _checkpoint(files: RunFiles) -> None:
    folder = files.run / "checkpoints"
    found = [p.name for p in folder.glob("step-*") if (p / "config.json").is_file()] if folder.is_dir() else []
    files.checkpoints = sorted(found, key=lambda name: (len(name), name))
    pointers = [_text(files, name).strip() for name in ("best", "latest")]
    name = next((p for p in pointers if p in files.checkpoints), files.checkpoints[-1] if files.checkpoints else None)
    if name is not None:
        files.checkpoint = f"checkpoints/{name}"
        files.config = _table(files, f"{files.checkpoint}/config.json")
        files.weights = _count_weights(files.run / files.checkpoint / "model.safetensors")


def _count_weights(path: Path) -> int | None:
    """Add up the shapes in a safetensors header, which is JSON: eight bytes of length, then the table."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < 100_000_000:
                return None
            table = json.loads(file.read(length))
        return sum(int(np.prod(entry["shape"], dtype=object)) for name, entry in table.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _text(files: RunFiles, name: str) -> str:
    try:
        text = (files.run / name).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        files.problems.append(f"{name} cannot be read: {error.strerror}")
        return ""
    files.present.append(name)
    return text


def _table(files: RunFiles, name: str) -> Table:
    text = _text(files, name)
    if name not in files.present:
        return {}
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        files.problems.append(f"{name} is not valid JSON")
        return {}
    if not isinstance(table, dict):
        files.problems.append(f"{name} holds no table")
        return {}
    return table


def _lines(files: RunFiles, name: str) -> Iterator[Table]:
    """Give the tables of a .jsonl file; a half-written or foreign line is counted, not hidden."""
    bad = 0
    try:
        with (files.run / name).open(encoding="utf-8", errors="replace") as file:
            files.present.append(name)
            for line in file:
                if not line.strip():
                    continue
                try:
                    table = json.loads(line)
                except (ValueError, RecursionError):
                    bad += 1
                    continue
                if isinstance(table, dict):
                    yield table
                else:
                    bad += 1
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        files.problems.append(f"{name} cannot be read: {error.strerror}")
    if bad:
        files.problems.append(f"{name}: {bad:,} line{'s' if bad > 1 else ''} could not be read")


def _columns(lines: Iterator[Table]) -> dict[str, Column]:
    steps: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    for line in lines:
        step = number(line.get("step"))
        if step is None or not np.isfinite(step):
            continue
        for name, value in line.items():
            # The type test first: almost every figure passes it, and there may be millions.
            figure = value if type(value) is float else number(value)
            if figure is not None:
                if name not in steps:
                    steps[name], values[name] = [], []
                steps[name].append(step)
                values[name].append(figure)
    return {name: Column(np.array(steps[name]), np.array(values[name], dtype=np.float64)) for name in steps}
