"""Read the files of a run directory for the report; missing or unreadable files are listed, never raised."""

import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.files import MANIFEST, renamed_checkpoint, run_layout
from firstlight.report.units import to_float
from firstlight.runs import RunDirectory

Array = np.ndarray[Any, np.dtype[Any]]
Table = Mapping[str, Any]

_CHUNK_LINES = 2000


@dataclass(frozen=True, slots=True)
class Column:
    """One metric over the steps of a run; both arrays have the same length, and non-finite values are kept."""

    steps: Array
    values: Array

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
        return int(np.count_nonzero(np.isfinite(self.values)))

    def median(self) -> float | None:
        """Return the median of the finite values."""
        finite = self.values[np.isfinite(self.values)]
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


EMPTY = Column(np.empty(0), np.empty(0))


@dataclass(slots=True)
class RunFiles:
    """The contents of a run directory; every table may be empty.

    Attributes:
        settings_text: run.toml, unparsed.
        metrics: columns of metrics.jsonl by name.
        tasks: labelled tasks of a fine-tuning run.
        codec: pixels.json or ids.json, of a run on ids that are not text.
        config: config.json of ``checkpoint``.
        manifest_name: path of the token store's manifest; outside the run if ``run.store`` is set.
        checkpoint: the checkpoint that RUN stands for, relative to the run: ``best``, else ``latest``, else the newest.
        weights: number of elements in its model.safetensors, or None.
        present: files that exist, relative to the run.
        problems: one clause per file that could not be read.
    """

    run: Path
    settings: Table = field(default_factory=dict)
    settings_text: str = ""
    metrics: dict[str, Column] = field(default_factory=dict)
    samples: list[Table] = field(default_factory=list)
    events: list[Table] = field(default_factory=list)
    manifest: Table = field(default_factory=dict)
    manifest_name: str = "data/manifest.json"
    tokenizer: Table = field(default_factory=dict)
    codec: Table = field(default_factory=dict)
    config: Table = field(default_factory=dict)
    evaluation: Table = field(default_factory=dict)
    environment: Table = field(default_factory=dict)
    contract: Table = field(default_factory=dict)
    coverage: Table = field(default_factory=dict)
    state: Table = field(default_factory=dict)
    tasks: list[Table] = field(default_factory=list)
    checkpoint: str | None = None
    checkpoints: list[str] = field(default_factory=list)
    weights: int | None = None
    present: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def column(self, name: str) -> Column:
        """Return a column of metrics.jsonl; empty if it was never logged."""
        return self.metrics.get(name, EMPTY)


def find(table: object, *path: str) -> Any:
    """Return the value at a path of keys in nested tables, or None."""
    for key in path:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def read_run(run: Path) -> RunFiles:
    """Read all files that the report needs; never fails on what a file contains."""
    files = read_metrics(run)
    directory = RunDirectory(run)
    files.environment = _table(files, directory.environment_file)
    files.contract = _table(files, directory.compatibility_file)
    files.coverage = _table(files, directory.embeddings / "coverage.json")
    store = find(files.settings, "run", "store")
    manifest = (Path(store) if isinstance(store, str) else directory.data) / MANIFEST
    files.manifest_name = _name(files, manifest)
    files.manifest = _table(files, manifest)
    files.tokenizer = _table(files, directory.tokenizer / "tokenizer.json")
    files.tasks = _tables(files, directory.tasks_file)
    files.samples = list(_lines(files, directory.samples))
    files.events = list(_lines(files, directory.events))
    return files


def read_metrics(run: Path) -> RunFiles:
    """Read settings, state, metrics, evaluation and checkpoints only: what a list of runs needs."""
    files = RunFiles(run)
    directory = RunDirectory(run)
    files.settings_text = _text(files, directory.settings_file)
    try:
        files.settings = tomllib.loads(files.settings_text)
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError; so is a number too long
        files.problems.append(f"run.toml is not valid TOML: {error}")
    files.state = _table(files, directory.state_file)
    files.evaluation = _table(files, directory.evaluation_file)
    files.codec = _table(files, directory.tokenizer / "pixels.json") or _table(files, directory.tokenizer / "ids.json")
    files.metrics = _columns(_lines(files, directory.metrics))
    _read_checkpoints(files, directory)
    return files


def _read_checkpoints(files: RunFiles, directory: RunDirectory) -> None:
    try:
        found = [p.name for p in directory.checkpoints.glob("step-*") if (p / "config.json").is_file()]
    except OSError as error:
        files.problems.append(f"checkpoints cannot be read: {error.strerror}")
        found = []
    files.checkpoints = sorted(found, key=lambda name: (len(name), name))
    pointers = [_text(files, files.run / name).strip() for name in (run_layout.BEST, run_layout.LATEST)]
    name = next((p for p in pointers if p in files.checkpoints), files.checkpoints[-1] if files.checkpoints else None)
    if name is not None:
        checkpoint = directory.checkpoints / name
        if (renamed := renamed_checkpoint(checkpoint)) is not None:
            files.problems.append(renamed)
        files.checkpoint = _name(files, checkpoint)
        files.config = _table(files, checkpoint / "config.json")
        files.weights = _count_weights(checkpoint / "model.safetensors")


def _count_weights(path: Path) -> int | None:
    """Add up the shapes in a safetensors header, which is JSON: eight bytes of length, then the table."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < 100_000_000:
                return None
            table = json.loads(file.read(length))
        return sum(math.prod(map(int, entry["shape"])) for name, entry in table.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _name(files: RunFiles, path: Path) -> str:
    """Return a path relative to the run, or as it is if it is outside."""
    return path.relative_to(files.run).as_posix() if path.is_relative_to(files.run) else str(path)


def _text(files: RunFiles, path: Path) -> str:
    name = _name(files, path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:  # a ValueError: not a possible file name
        files.problems.append(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}")
        return ""
    files.present.append(name)
    return text


def _table(files: RunFiles, path: Path) -> Table:
    name, text = _name(files, path), _text(files, path)
    if name not in files.present:
        return {}
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        files.problems.append(f"{name} is not valid JSON")
        return {}
    if not isinstance(table, dict):
        files.problems.append(f"{name} is not a JSON object")
        return {}
    return table


def _tables(files: RunFiles, path: Path) -> list[Table]:
    """Read a JSON list of objects; empty if the file does not exist."""
    text = _text(files, path)
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        files.problems.append(f"{_name(files, path)} is not a JSON list")
        return []
    return [table for table in found if isinstance(table, dict)]


def _lines(files: RunFiles, path: Path) -> Iterator[Table]:
    """Yield the objects of a .jsonl file; half-written and other bad lines are counted as a problem."""
    name, bad = _name(files, path), 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            files.present.append(name)
            while lines := list(islice(file, _CHUNK_LINES)):
                for table in _parsed(lines):
                    if table is None:
                        bad += 1
                    else:
                        yield table
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        files.problems.append(f"{name} cannot be read: {error.strerror}")
    if bad:
        files.problems.append(f"{name}: {bad:,} line{'s' if bad > 1 else ''} could not be read")


def _parsed(lines: list[str]) -> list[Table | None]:
    """Parse each non-blank line; None for one that is not a JSON object.

    Parsing all lines as one list takes half the time, so that is tried first. Broken lines that form a valid list
    together are detected by their number and their ends.
    """
    lines = [stripped for line in lines if (stripped := line.strip())]
    if all(line[0] == "{" and line[-1] == "}" for line in lines):
        try:
            tables = json.loads(f"[{','.join(lines)}]")
            if len(tables) == len(lines) and all(type(table) is dict for table in tables):
                return list(tables)
        except (ValueError, RecursionError):
            pass
    return [_parsed_alone(line) for line in lines]


def _parsed_alone(line: str) -> Table | None:
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def _columns(lines: Iterator[Table]) -> dict[str, Column]:
    """Convert lines to columns in chunks, as there may be millions of lines."""
    steps: dict[str, list[Array]] = {}
    values: dict[str, list[Array]] = {}
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
                    steps.setdefault(name, []).append(step[valid])
                    values.setdefault(name, []).append(floats[valid])
    return {name: _concatenate(steps[name], values[name]) for name in steps}


def _concatenate(steps: list[Array], values: list[Array]) -> Column:
    step, value = np.concatenate(steps), np.concatenate(values)
    order = np.argsort(step, kind="stable")
    return Column(step[order], value[order])


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
