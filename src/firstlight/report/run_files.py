"""Read the files of a run directory for the report; missing or unreadable files are listed, never raised."""

import json
import tomllib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.files import MANIFEST, renamed_checkpoint, run_layout
from firstlight.files.json_lines import JsonLines
from firstlight.model import HEADS_FILE
from firstlight.report.column import Column, ColumnBuilder
from firstlight.report.metric_lines import metric_chunks
from firstlight.report.text import to_text
from firstlight.report.weights import read_weights
from firstlight.runs import RunDirectory

Table = Mapping[str, Any]

_MAX_SAMPLES, _MAX_EVENTS, _MAX_KINDS = 200, 1000, 50


EMPTY = Column(np.empty(0), np.empty(0))


@dataclass(slots=True)
class RunFiles:
    """The contents of a run directory; every table may be empty.

    Attributes:
        settings_text: run.toml, unparsed.
        metrics: columns of metrics.jsonl by name.
        samples: some of samples.jsonl, spread over the run; ``n_samples`` counts all.
        events: of events.jsonl the ``first_events`` first ones and as many last ones; ``events_left_out`` are between
            them, and ``event_kinds`` counts all.
        tasks: labelled tasks of a fine-tuning run.
        codec: pixels.json or ids.json, of a run on ids that are not text.
        config: config.json of ``checkpoint``.
        manifest_name: path of the token store's manifest; outside the run if ``run.store`` is set.
        checkpoint: the checkpoint that RUN stands for, relative to the run: ``best``, else ``latest``, else the newest.
        weights, head_weights: number of elements of each tensor in its model.safetensors and heads.safetensors.
        present: files that exist, relative to the run.
        problems: one clause per file that could not be read.
    """

    run: Path
    settings: Table = field(default_factory=dict)
    settings_text: str = ""
    metrics: dict[str, Column] = field(default_factory=dict)
    samples: list[Table] = field(default_factory=list)
    n_samples: int = 0
    events: list[Table] = field(default_factory=list)
    first_events: int = 0
    events_left_out: int = 0
    event_kinds: Counter[str] = field(default_factory=Counter)
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
    weights: dict[str, int] = field(default_factory=dict)
    head_weights: dict[str, int] = field(default_factory=dict)
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
    files.samples, files.n_samples = _thin_samples(_lines(files, directory.samples))
    _read_events(files, _lines(files, directory.events))
    return files


def read_metrics(run: Path) -> RunFiles:
    """Read settings, state, metrics, tasks, evaluation and checkpoints only: what a list of runs needs."""
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
    files.tasks = _tables(files, directory.tasks_file)
    _read_checkpoints(files, directory)
    return files


def _thin_samples(lines: Iterator[Table]) -> tuple[list[Table], int]:
    """Return samples spread over the run, with the latest one last, and the number of all."""
    kept: list[Table] = []
    stride, n = 1, 0
    last: Table = {}
    for last in lines:
        if n % stride == 0:
            kept.append(last)
        n += 1
        if len(kept) > _MAX_SAMPLES:
            kept, stride = kept[::2], 2 * stride
    return (kept if not kept or kept[-1] is last else [*kept, last]), n


def _read_events(files: RunFiles, lines: Iterator[Table]) -> None:
    """Keep the first and the last events, and count all by kind."""
    latest: deque[Table] = deque(maxlen=_MAX_EVENTS)
    for event in lines:
        kind = to_text(event.get("kind"), 40)
        files.event_kinds[kind if len(files.event_kinds) < _MAX_KINDS else "other"] += 1
        (files.events if len(files.events) < _MAX_EVENTS else latest).append(event)
    files.events_left_out = sum(files.event_kinds.values()) - len(files.events) - len(latest)
    files.first_events = len(files.events)
    files.events += latest


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
        files.weights = read_weights(checkpoint / "model.safetensors")
        files.head_weights = read_weights(checkpoint / HEADS_FILE)


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
    """Yield the objects of a .jsonl file; lines that are damaged or incomplete are a problem."""
    name = _name(files, path)
    try:
        with path.open("rb") as file:
            files.present.append(name)
            lines = JsonLines(file)
            for _, table in lines:
                yield table
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        files.problems.append(f"{name} cannot be read: {error.strerror}")
        return
    if damage := lines.describe_damage():
        files.problems.append(f"{name}: {damage}")


def _columns(lines: Iterator[Table]) -> dict[str, Column]:
    """Convert lines to columns."""
    builders: dict[str, ColumnBuilder] = {}
    for name, steps, values in metric_chunks(lines):
        builders.setdefault(name, ColumnBuilder()).add(steps, values)
    return {name: builder.build() for name, builder in builders.items()}
