"""Read the plain files of a run directory; what is missing or unreadable is empty, and named."""

import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.report.units import number

Array = np.ndarray[Any, np.dtype[Any]]
Table = Mapping[str, Any]

_LINES_AT_ONCE = 2000


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

    def since(self, step: float) -> "Column":
        """Return the part from a step on."""
        later = self.steps >= step
        return Column(self.steps[later], self.values[later])

    def last_step(self) -> float | None:
        """Return the newest step."""
        return float(self.steps[-1]) if len(self) else None

    def n_finite(self) -> int:
        """Count the finite figures."""
        return int(np.count_nonzero(np.isfinite(self.values)))

    def median(self) -> float | None:
        """Return the median of the finite figures."""
        finite = self.values[np.isfinite(self.values)]
        with np.errstate(over="ignore"):
            return float(np.median(finite)) if len(finite) else None

    def at(self, step: float) -> float | None:
        """Return the figure of a step, the newest where there are several."""
        found = np.flatnonzero(self.steps == step)
        return float(self.values[found[-1]]) if len(found) else None

    def most(self) -> float | None:
        """Return the highest finite figure."""
        finite = self.values[np.isfinite(self.values)]
        return float(np.max(finite)) if len(finite) else None

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
        tasks: labelled tasks of a fine-tuning run.
        codec: what ids mean that are no text: pixels.json or ids.json.
        config: config.json of the checkpoint that RUN means.
        manifest_name: where the token store's manifest lies; outside the run where the store was made before.
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
        """Return a column of metrics.jsonl; an empty one where it was never recorded."""
        return self.metrics.get(name, EMPTY)


def find(table: object, *path: str) -> Any:
    """Return what stands in nested tables under these keys; None where something on the way is no table."""
    for key in path:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def read_run(run: Path) -> RunFiles:
    """Read everything that a report needs; never fails on what a file holds."""
    files = RunFiles(run)
    files.settings_text = _text(files, "run.toml")
    try:
        files.settings = tomllib.loads(files.settings_text)
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError; so is a number too long
        files.problems.append(f"run.toml is not valid TOML: {error}")
    for name in ("evaluation", "environment", "contract", "state"):
        setattr(files, name, _table(files, f"{name}.json"))
    files.coverage = _table(files, "embeddings/coverage.json")
    store = find(files.settings, "run", "store")
    folder = files.run / "data" if not isinstance(store, str) else Path(store)
    files.manifest_name = "data/manifest.json" if not isinstance(store, str) else str(folder / "manifest.json")
    files.manifest = _table(files, files.manifest_name, folder / "manifest.json")
    files.tokenizer = _table(files, "tokenizer/tokenizer.json")
    files.codec = _table(files, "tokenizer/pixels.json") or _table(files, "tokenizer/ids.json")
    files.tasks = _tables(files, "tasks.json")
    files.samples = list(_lines(files, "samples.jsonl"))
    files.events = list(_lines(files, "events.jsonl"))
    files.metrics = _columns(_lines(files, "metrics.jsonl"))
    _checkpoint(files)
    return files


def _checkpoint(files: RunFiles) -> None:
    try:
        found = [p.name for p in (files.run / "checkpoints").glob("step-*") if (p / "config.json").is_file()]
    except OSError as error:
        files.problems.append(f"checkpoints cannot be read: {error.strerror}")
        found = []
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
        return sum(math.prod(map(int, entry["shape"])) for name, entry in table.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _text(files: RunFiles, name: str, path: Path | None = None) -> str:
    try:
        text = (path or files.run / name).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:  # a ValueError is a name that no file can have
        files.problems.append(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}")
        return ""
    files.present.append(name)
    return text


def _table(files: RunFiles, name: str, path: Path | None = None) -> Table:
    text = _text(files, name, path)
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


def _tables(files: RunFiles, name: str) -> list[Table]:
    """Give the tables of a JSON list; a run without labelled tasks has none."""
    text = _text(files, name)
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        files.problems.append(f"{name} holds no list")
        return []
    return [table for table in found if isinstance(table, dict)]


def _lines(files: RunFiles, name: str) -> Iterator[Table]:
    """Give the tables of a .jsonl file; a half-written or foreign line is counted, not hidden."""
    bad = 0
    try:
        with (files.run / name).open(encoding="utf-8", errors="replace") as file:
            files.present.append(name)
            while lines := list(islice(file, _LINES_AT_ONCE)):
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
    """Return the table of each line that is not blank, None where it holds none.

    All lines at once are parsed in half the time, so that is tried first; broken lines that make a list
    together are told by their number or their ends.
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
    """Turn lines into columns, some thousand at a time: there may be millions."""
    steps: dict[str, list[Array]] = {}
    values: dict[str, list[Array]] = {}
    while tables := list(islice(lines, _LINES_AT_ONCE)):
        alike: dict[tuple[str, ...], list[Iterable[Any]]] = {}
        for table in tables:
            alike.setdefault(tuple(table), []).append(table.values())
        for names, rows in alike.items():
            if "step" not in names:
                continue
            columns = dict(zip(names, zip(*rows, strict=True), strict=True))
            step, _ = _figures(columns["step"])
            finite = np.isfinite(step)
            for name, column in columns.items():
                figures, there = _figures(column)
                there = there & finite
                if there.any():
                    steps.setdefault(name, []).append(step[there])
                    values.setdefault(name, []).append(figures[there])
    return {name: _joined(steps[name], values[name]) for name in steps}


def _joined(steps: list[Array], values: list[Array]) -> Column:
    step, value = np.concatenate(steps), np.concatenate(values)
    order = np.argsort(step, kind="stable")
    return Column(step[order], value[order])


def _figures(column: Sequence[Any]) -> tuple[Array, Array]:
    """Return figures as float64, and which of them are figures at all."""
    if set(map(type, column)) <= {float, int}:
        try:
            return np.array(column, dtype=np.float64), np.ones(len(column), dtype=bool)
        except OverflowError:
            pass
    read = [number(value) for value in column]
    there = np.array([value is not None for value in read], dtype=bool)
    return np.array([math.nan if value is None else value for value in read], dtype=np.float64), there
