"""Settings of the updates (learning rate, schedule, decay, clipping): ``key=value`` changes them on a resume.

The record of a run (``contract.json``) says with which values it trains. It is written before run.toml, whose values
are compared with it: one that was edited by hand is refused, since nothing would say when it was changed.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from firstlight import progress
from firstlight.config import Settings, flatten, format_override, merge, nested, used_settings, validate
from firstlight.errors import CompatibilityError, ConfigError
from firstlight.files import run_layout
from firstlight.optim import OptimizerSettings
from firstlight.runs.compatibility import (
    PER_MACHINE,
    SCHEDULE_DEFAULTS,
    describe_differences,
    is_of_updates,
    recorded_settings,
)
from firstlight.runs.directory import RunDirectory, read_json_object
from firstlight.runs.recipe import Recipe
from firstlight.shell import command_line, unused_path

S = TypeVar("S", bound=Settings)

PENDING = "pending"  # in the record of a run whose run.toml does not have the changes yet


def without_edits(
    recipe: Recipe[S, Any, Any], run: RunDirectory, old: dict[str, Any], named: Collection[str], *, restart: bool
) -> tuple[dict[str, Any], OptimizerSettings | None]:
    """Return the settings of run.toml with those of the updates as the run recorded them, and the optimizer's.

    Raises:
        CompatibilityError: run.toml was edited, and the command does not name what it changes.
    """
    try:
        settings = validate(recipe.settings_class, old)
    except ConfigError:  # reported with the request
        return old, None
    optimizer: OptimizerSettings = settings.optim  # type: ignore[attr-defined]  # of every recipe
    record, table = read_json_object(run.compatibility_file), used_settings(settings)
    if record.get(PENDING):  # killed between its record and run.toml
        return merge(old, nested(_unwritten(record, table))), optimizer
    edited = _edited_settings(record, table, optimizer) if run.has_saved else {}
    if unnamed := {key: values for key, values in edited.items() if key not in named}:
        raise unnamed_error(unnamed, run.settings_file, run.path, recipe.kind, restart=restart)
    return merge(old, nested({key: before for key, (before, _) in edited.items()})), optimizer


def _unwritten(record: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that a run has recorded and run.toml lacks."""
    recorded, before = record.get("repeatable_settings"), flatten(table)
    recorded = recorded if isinstance(recorded, dict) else {}
    return {k: v for k, v in recorded.items() if k not in PER_MACHINE and before.get(k) != v}


def _edited_settings(
    compatibility: Mapping[str, Any], table: Mapping[str, Any], optimizer: OptimizerSettings
) -> dict[str, tuple[Any, Any]]:
    """Return the settings of the updates that run.toml has otherwise than the run recorded: ``{key: (old, new)}``.

    Args:
        compatibility: the data that the run wrote at its last start.
        table: the settings of run.toml, validated, without those that have no effect.
        optimizer: those of the optimizer.
    """
    recorded = recorded_settings(compatibility)
    if "optim.lr" not in recorded:
        return {}
    before = {**SCHEDULE_DEFAULTS, **recorded}
    return {
        key: (before.get(key), value)
        for key, value in flatten(table).items()
        if is_of_updates(key, optimizer) and key in before and before[key] != value
    }


def keep_updates(
    run: RunDirectory,
    optimizer: OptimizerSettings,
    changed: dict[str, tuple[Any, Any]],
    named: Collection[str],
    file: Mapping[str, Any],
) -> None:
    """Remove from the changes what a preset has otherwise than the run, and a file than it had: both are of its start.

    Args:
        run: the run directory.
        optimizer: the settings of its optimizer.
        changed: ``{key: (old, new)}``.
        named: the dotted keys that the command names.
        file: the settings of a file.
    """
    changes = read_json_object(run.compatibility_file).get("changed_settings")
    changes = [c for c in changes if isinstance(c, dict)] if isinstance(changes, list) else []
    first, in_file = {str(change.get("key")): change.get("old") for change in reversed(changes)}, flatten(file)
    for key, (old, new) in list(changed.items()):
        is_of_start = key not in in_file or (key in first and first[key] == new)
        if is_of_updates(key, optimizer) and key not in named and is_of_start:
            del changed[key]
            progress.notice(f"{key} stays {old}, as the run has it; {format_override(key, new)} changes it")


def unnamed_error(
    changed: Mapping[str, tuple[Any, Any]], where: Path, run: Path, kind: str, *, restart: bool = False
) -> CompatibilityError:
    """Return the error for settings of the updates that a file changes: a command has to name them.

    Args:
        changed: ``{key: (old, new)}``.
        where: the file.
        run: the run directory.
        kind: of run.
        restart: whether the run is to start again at step 0, which keeps its settings.
    """
    values = [format_override(key, new) for key, (_, new) in sorted(changed.items())]
    change = command_line(kind, run, "--resume", *values)
    if restart:
        change = command_line(kind, run / run_layout.SETTINGS, "--out", unused_path(run))
    return CompatibilityError(
        "settings of the updates are changed by key=value, so that the run records the change, not by a file",
        where=where,
        found=describe_differences(changed),
        fix=f"Set them back, or {'start a new run' if restart else 'change them'}: {change}",
    )
