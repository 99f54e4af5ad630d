"""Task files: TASK.toml as people write it, and tasks.json in runs and checkpoints, with the labels found in train."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from firstlight.config import flatten, merge, read_toml, resolve, validate
from firstlight.errors import CheckpointError, ConfigError, UnknownName, UsageError
from firstlight.files import read_json
from firstlight.files.limits import read_bounded
from firstlight.files.run_layout import TASKS
from firstlight.finetuning.kinds import check_spec
from firstlight.finetuning.spec import TaskSpec
from firstlight.lm import portable_tasks

_PACKAGED = Path(__file__).parent / "tasks"
_BEFORE_POOL = {"pool": "last"}  # what heads of earlier versions read, whose files do not say it
_TABLES = {".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx", ".txt", ".zip", ".gz"}


def packaged_tasks() -> list[str]:
    """Return the names of the tasks that come with the package, rows included."""
    return sorted(path.stem for path in _PACKAGED.glob("*.toml"))


def _find(path: Path) -> Path:
    """Return the TASK.toml that a path or the name of a packaged task stands for.

    Raises:
        UnknownName: a name without a suffix that is neither a file nor a packaged task.
    """
    if path.suffix or path.exists() or len(path.parts) != 1:
        return path
    if path.name not in packaged_tasks():
        raise UnknownName("task", path.name, packaged_tasks(), alternative="the path of a TASK.toml")
    return _PACKAGED / f"{path.name}.toml"


def read_spec(path: Path, *, data: Path | None = None, overrides: Mapping[str, Any] | None = None) -> TaskSpec:
    """Read a TASK.toml.

    Args:
        path: of the file, or the name of a packaged task, such as ``scenes``.
        data: the folder that contains ``data.folder``; by default that of the TOML. A packaged task has its own.
        overrides: tables merged over the file's.

    Raises:
        UsageError: the file is missing, a table or not TOML, or no task has this name.
        ConfigError: a key is unknown, missing or has a wrong value; names file and key.
    """
    path = _find(path)
    if path.suffix.lower() in _TABLES:
        raise UsageError(
            "is a table, not a task",
            where=path,
            expected="a TASK.toml that names the table and its columns",
            fix="docs/finetune.md has one to copy.",
        )
    given = flatten(overrides or {})
    table = merge({"name": path.stem}, read_toml(path), overrides or {})
    base = path.parent if data is None or path.parent == _PACKAGED else data
    if isinstance(table.get("labels"), str):
        table = {**table, "labels": _read_names(_folder(table, base) / table["labels"], path)}
    try:
        spec = resolve(TaskSpec, table)
        check_spec(spec)
    except UsageError as error:
        raise ConfigError(
            error.problem,
            where=error.where if error.where in given else f"{path}: {error.where}" if error.where else path,
            found=error.found,
            expected=error.expected,
            fix=error.fix,
        ) from error
    files = spec.data.model_copy(update={"folder": str(base / spec.data.folder)})
    return spec.model_copy(update={"data": files})


def _folder(table: Mapping[str, Any], base: Path) -> Path:
    files = table.get("data")
    folder = files.get("folder", "") if isinstance(files, Mapping) else ""
    return base / folder if isinstance(folder, str) else base


def _read_names(path: Path, toml: Path) -> list[str]:
    """Read a file of names of labels, one per line."""
    expected = "a list of names, or a UTF-8 file with one per line"
    if not path.is_file():
        raise ConfigError("no such file", where=f"{toml}: labels", found=path, expected=expected)
    try:
        text = read_bounded(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8", where=f"{toml}: labels", found=path, expected=expected) from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def change_spec(spec: TaskSpec, overrides: Mapping[str, Any]) -> TaskSpec:
    """Return a task with other settings.

    Raises:
        ConfigError: as ``read_spec``.
    """
    changed = validate(TaskSpec, merge(spec.model_dump(), overrides))
    check_spec(changed)
    return changed


def tasks_to_json(specs: Iterable[TaskSpec], *, portable: bool = False) -> str:
    """Return the text of tasks.json.

    Args:
        specs: the tasks.
        portable: for a model that may be shared, without the folders of this machine; else the folders of the files
            hold from wherever it is read.
    """
    tables = [spec.model_dump(mode="json") for spec in specs]
    if portable:
        tables = portable_tasks(tables)
    else:
        for table in tables:
            table["data"]["folder"] = str(Path(table["data"]["folder"]).absolute())
    return json.dumps(tables, indent=1, ensure_ascii=False) + "\n"


def read_tasks(folder: Path) -> dict[str, TaskSpec]:
    """Read the tasks.json of a run or checkpoint.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / TASKS
    try:
        tables = read_json(path, CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError("is missing", where=path) from error
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise CheckpointError("holds no list of tasks", where=path)
    try:
        specs = [validate(TaskSpec, {**_BEFORE_POOL, **table}) for table in tables]
    except ConfigError as error:
        raise CheckpointError(f"cannot be read: {error}", where=path) from error
    return {spec.name: spec for spec in specs}
