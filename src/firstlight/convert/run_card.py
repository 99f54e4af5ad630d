"""What the files of a run add to the model card of a checkpoint that is exported: steps, losses, results, settings."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstlight.config import flatten, read_toml
from firstlight.errors import UsageError
from firstlight.files import run_layout
from firstlight.files.json_lines import JsonLines
from firstlight.files.run_names import parse_run_path, short_name
from firstlight.lm import CardInfo, TaskResult, read_card_info
from firstlight.runs import RunDirectory
from firstlight.runs import read_json_object as read_or_empty

_TABLES = ("optim", "train", "finetune", "model", "data")
_NOT_SHARED = ("train.trackers", "train.sample_prompt")


def export_card(checkpoint: Path, *, with_results: bool = True) -> tuple[dict[str, str], CardInfo]:
    """Return the rows of a model card, and what else it says, of a model directory that is exported.

    Licence, languages, data sets and base model are those of its own card, which may have been edited. What a run's
    files say is added to a checkpoint of it; names of files are those without their folders.

    Args:
        checkpoint: the model directory.
        with_results: with the metrics of tasks, whose heads are exported.
    """
    info = read_card_info(checkpoint)
    found = _find(checkpoint)
    if found is None:
        return {}, info
    run, step = found
    settings = _settings(run)
    row = _row_at(run, step)
    sample = _sample_at(run, step)
    rows = {"run": run.name}
    if corpus := _corpus(run, settings):
        rows["corpus"] = ", ".join(corpus)
    if isinstance(start := settings.get("run.init_from"), str) and start:
        rows["started from"] = short_name(start)
    if step is not None:
        rows["steps"] = f"{step:,}"
    unit = "tokens" if "optim.name" in settings and not any(key.startswith("finetune.") for key in settings) else ""
    if unit and "tokens" in row:
        rows["training tokens"] = f"{row['tokens']:,}"
    if "task_loss" in row:  # without the language-model loss, as the validation loss is
        row["loss"] = row["task_loss"]
    for key, name in _ROWS.items():
        if isinstance(value := row.get(key), float | int) and math.isfinite(value):
            rows[name] = f"{value:,.2f}" if key == "perplexity" else f"{value:.4f}"
    results = _results(run, checkpoint) if with_results else []
    for result in results:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        rows[f"{result.task}, {result.split}"] = shown
    return rows, replace(
        info,
        name=run.name,
        results=results,
        settings=_shared_settings(settings, run),
        prompt=str(sample.get("prompt", "")),
        sample=str(sample.get("text", "")),
    )


_ROWS = {
    "loss": "training loss",
    "valid_loss": "validation loss",
    "perplexity": "validation perplexity",
    "bits_per_byte": "bits per byte",
    "bits_per_character": "bits per character",
    "bits_per_token": "bits per token",
    "bits_per_dim": "bits per dimension",
}


def _find(checkpoint: Path) -> tuple[RunDirectory, int | None] | None:
    """Return the run that a model directory is in, and the step of a checkpoint."""
    place = checkpoint.absolute()
    found = parse_run_path(place)
    if found.run is not None and found.checkpoint is not None:
        return RunDirectory(found.run), int(found.checkpoint.name.rpartition("-")[2])
    run = RunDirectory(place.parent)
    return (run, None) if place.name == run_layout.EMA and run.exists else None


def _settings(run: RunDirectory) -> dict[str, Any]:
    try:
        return flatten(read_toml(run.settings_file))
    except UsageError:
        return {}


def _lines_to(path: Path, step: int | None) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of a log up to a step; all of them without one."""
    with suppress(OSError), path.open("rb") as file:
        for _, line in JsonLines(file):
            at = line.get("step")
            if isinstance(at, int) and (step is None or at <= step):
                yield line


def _row_at(run: RunDirectory, step: int | None) -> dict[str, Any]:
    """Return the last value of every metric up to a step."""
    row: dict[str, Any] = {}
    for line in _lines_to(run.metrics, step):
        row |= line
    return row


def _sample_at(run: RunDirectory, step: int | None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = {}
    for found in _lines_to(run.samples, step):  # noqa: B007 - the last one
        pass
    return found


def _corpus(run: RunDirectory, settings: Mapping[str, Any]) -> list[str]:
    names = settings.get("run.corpus") or []
    if not names:
        store = settings.get("run.store")
        manifest = read_or_empty((Path(store) if isinstance(store, str) else run.data) / "manifest.json")
        names = [table.get("name") for table in manifest.get("sources", []) if isinstance(table, dict)]
    return [short_name(name) for name in names if isinstance(name, str)]


def _results(run: RunDirectory, checkpoint: Path) -> list[TaskResult]:
    """Return the metrics of a fine-tuning run, which are those of its best checkpoint."""
    with suppress(OSError):
        if (run.path / run_layout.BEST).read_text(encoding="utf-8").strip() != checkpoint.name:
            return []
    evaluation = read_or_empty(run.evaluation_file)
    types = {str(spec.get("name")): str(spec.get("kind")) for spec in _tasks(run)}
    found = []
    for split, key in (("validation", "tasks"), ("test", "test")):
        tables = evaluation.get(key)
        for name, table in tables.items() if isinstance(tables, dict) else ():
            metrics = table.get("others") or {table.get("metric"): table.get("value")}
            finite = {
                str(metric): float(value)
                for metric, value in metrics.items()
                if isinstance(value, float | int) and math.isfinite(value)
            }
            if finite:
                found.append(TaskResult(_TYPES.get(types.get(name, ""), "text-generation"), name, split, finite))
    return found


# Tasks of the hub, by kind; others are of the language model.
_TYPES = {
    "classification": "text-classification",
    "pair": "text-classification",
    "regression": "text-classification",
    "similarity": "sentence-similarity",
    "multiple_choice": "multiple-choice",
    "token_classification": "token-classification",
}


def _tasks(run: RunDirectory) -> list[dict[str, Any]]:
    try:
        tables = json.loads(run.tasks_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []


def _shared_settings(settings: Mapping[str, Any], run: RunDirectory) -> str:
    """Return the settings of training in TOML, without paths of this machine; those that changed have a comment."""
    lines = {
        key: f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in settings.items()
        if key.partition(".")[0] in _TABLES and key not in _NOT_SHARED and _is_shared(value)
    }
    for event in _lines_to(run.events, None):
        text = str(event.get("text", ""))
        key = text.partition(" ")[0]
        if event.get("kind") == "setting" and key in lines and _is_shared(text):
            lines[key] += f"  # {text.removeprefix(key).strip()} at step {event.get('step')}"
    return "\n".join(lines.values())


def _is_shared(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_shared, value))
    if isinstance(value, str):
        return "/" not in value and "\\" not in value
    return isinstance(value, bool | int) or isinstance(value, float) and math.isfinite(value)
