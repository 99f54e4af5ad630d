"""Compatibility of a run's artifacts: hashes of settings and source code, and which settings a resume may change."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from firstlight.config import flatten, format_override
from firstlight.errors import CompatibilityError
from firstlight.files import run_layout, source_hash
from firstlight.optim import OptimizerSettings, ScheduleSettings
from firstlight.shell import command_in_folder, command_line, unused_path
from firstlight.train import CHANGEABLE_ON_RESUME, DECIDING_ON_RESUME

# Settings of the machine that a run happens to be on.
PER_MACHINE = frozenset({"hardware.device", "hardware.compile", "hardware.threads"})

SCHEDULE_DEFAULTS = flatten({"optim": {"schedule": ScheduleSettings().model_dump(mode="json")}})

# Packages whose code determines the weights of every run. Recipes add packages of higher layers.
_PACKAGES = ("corpus", "files", "tokenizer", "vectors", "store", "model", "optim", "parallel", "lm", "train", "runs")


def code_hash(*packages: str) -> str:
    """Compute the SHA-256 of the source code that determines the weights.

    Args:
        packages: packages of the recipe, in addition to those of every run.
    """
    return source_hash((*_PACKAGES, *packages))


def is_of_updates(key: str, optimizer: OptimizerSettings) -> bool:
    """Whether a dotted key is a setting of the updates that ``key=value`` may change on a resume.

    These are learning rates, their schedule, weight decay, momenta and clipping; not the optimizer itself, whose state
    is that of the run.
    """
    table, _, name = key.partition(".")
    return table == "optim" and name.partition(".")[0] in (*optimizer.lr_fields, *optimizer.resume_fields)


def fixed_settings(
    settings: Mapping[str, Any], optimizer: OptimizerSettings, sources: Collection[str] = ()
) -> dict[str, Any]:
    """Return the settings, by dotted key, that decide the weights, and that a resumed run must not change.

    The paths of its inputs, whose keys are ``sources``, are not among them, since a run may be moved; their contents
    have hashes of their own.
    """
    ignored = {*CHANGEABLE_ON_RESUME, *PER_MACHINE, *sources}
    return {
        key: value
        for key, value in sorted(flatten(settings).items())
        if key not in ignored
        and not is_of_updates(key, optimizer)
        and (key == "run.seed" or not key.startswith("run."))
    }


def repeatable_settings(settings: Mapping[str, Any], optimizer: OptimizerSettings) -> dict[str, Any]:
    """Return the settings, by dotted key, that a resume may change although the weights depend on them."""
    return {
        key: value
        for key, value in sorted(flatten(settings).items())
        if key in DECIDING_ON_RESUME | PER_MACHINE or is_of_updates(key, optimizer)
    }


def recorded_settings(compatibility: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, by dotted key, that compatibility data records; those of the updates were once fixed."""
    tables = (compatibility.get("fixed_settings"), compatibility.get("repeatable_settings"))
    return {key: value for table in tables if isinstance(table, dict) for key, value in table.items()}


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> list[dict[str, Any]]:
    """Return the changes of settings up to now: those that a checkpoint lists, and those since it was saved.

    Args:
        before: the compatibility data of the checkpoint; an older version did not list settings.
        now: ``repeatable_settings`` of the run.
        step: of the checkpoint; what was changed before the first step changes nothing.
    """
    if not step:
        return []
    old = recorded_settings(before)
    if "optim.schedule.name" in old:  # of another schedule, what it did not read had its default, and had no effect
        old = {**SCHEDULE_DEFAULTS, **old}
    new = [
        {"step": step, "key": key, "old": old[key], "new": value}
        for key, value in now.items()
        if key in old and old[key] != value
    ]
    return [*before.get("changed_settings", []), *new]


def describe_changes(compatibility: Mapping[str, Any]) -> str:
    """Describe the changes of settings that a run's compatibility data lists; empty where there are none."""
    changes = compatibility.get("changed_settings")
    changes = [change for change in changes if isinstance(change, dict)] if isinstance(changes, list) else []
    return ", ".join(
        f"{c.get('key')} from {shown_value(c.get('old'))} to {shown_value(c.get('new'))} at step {c.get('step')}"
        for c in changes
    )


def shown_value(value: object) -> str:
    """Return the value of a setting as text, such as 0.0003 for a product that is 0.00030000000000000003."""
    if isinstance(value, float):
        return f"{value:.10g}"
    return "none" if value is None else str(value)


def again_command(kind: str, run: Path) -> str:
    """Return the command that starts a run again, to be run in its folder."""
    return command_in_folder(kind, run_layout.SETTINGS, "--out", f"../{run.absolute().name}-again")


def settings_hash(fixed: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of the result of ``fixed_settings``."""
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()


def check_fixed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Path, fix: str | None = None
) -> None:
    """Compare the settings of a run with those that its checkpoint was trained with.

    Args:
        before: ``fixed_settings`` as the checkpoint recorded them; keys of an older version may be missing.
        now: those of the run.
        checkpoint: its folder.
        fix: what to do; by default to set them back.

    Raises:
        CompatibilityError: names every setting that differs, with both values.
    """
    differs = [key for key in before if key in now and before[key] != now[key]]
    if differs:
        raise CompatibilityError(
            "run.toml has other settings than the checkpoints were trained with",
            where=checkpoint,
            found=", ".join(f"{key} = {now[key]!r} (trained with {before[key]!r})" for key in differs),
            fix=fix or "Set them back in run.toml, or start a new run with another --out.",
        )


def changed_settings(old: Mapping[str, Any], specified: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare settings: ``{key: (old, new)}`` for each specified value that differs; ``auto`` leaves the old value."""
    before, after = flatten(old), flatten(specified)
    return {
        key: (before.get(key), value)
        for key, value in after.items()
        if value not in ("auto", None) and before.get(key) != value
    }


def describe_differences(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Describe settings that differ from those of a run, ``{key: (old, new)}``."""
    return ", ".join(f"{key} = {new!r} (the run has {old!r})" for key, (old, new) in sorted(changed.items()))


def check_changes(
    changed: Mapping[str, tuple[Any, Any]], run: Path, kind: str = "pretrain", updates: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Check that a resume may change these settings, and return them.

    Args:
        changed: ``{key: (old, new)}``.
        run: the run directory.
        kind: of run.
        updates: those of ``changed`` that are settings of the updates.

    Raises:
        CompatibilityError: names every setting that must not change, with both values.
    """
    refused = {k: v for k, v in changed.items() if k not in CHANGEABLE_ON_RESUME and k not in updates}
    if refused:
        raise CompatibilityError(
            "a resumed run cannot change these settings",
            where=run,
            found=describe_differences(refused),
            fix="Leave them as they are, or start a new run with them"
            + (" (from its weights: add --from and this run): " if kind == "pretrain" else ": ")
            + command_line(
                kind,
                run / run_layout.SETTINGS,
                "--out",
                unused_path(run),
                *(format_override(key, new) for key, (_, new) in changed.items()),
            ),
        )
    return dict(changed)
