"""Compatibility of a run's artifacts: hashes of settings and source code, and which settings a resume may change."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from firstlight.config import flatten
from firstlight.errors import CompatibilityError, quote_argument
from firstlight.files import source_hash
from firstlight.train import CHANGEABLE_ON_RESUME

# Settings of the machine that a run happens to be on.
_PER_MACHINE = frozenset({"hardware.device", "hardware.compile", "hardware.threads"})

# Packages whose code determines the weights of every run. Recipes add packages of higher layers.
_PACKAGES = ("corpus", "files", "tokenizer", "vectors", "store", "model", "optim", "parallel", "lm", "train", "runs")


def code_hash(*packages: str) -> str:
    """Compute the SHA-256 of the source code that determines the weights.

    Args:
        packages: packages of the recipe, in addition to those of every run.
    """
    return source_hash((*_PACKAGES, *packages))


def fixed_settings(settings: Mapping[str, Any], sources: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings, by dotted key, that decide the weights, and that a resumed run must not change.

    The paths of its inputs, whose keys are ``sources``, are not among them, since a run may be moved; their contents
    have hashes of their own.
    """
    ignored = {*CHANGEABLE_ON_RESUME, *_PER_MACHINE, *sources}
    return {
        key: value
        for key, value in sorted(flatten(settings).items())
        if key not in ignored and (key == "run.seed" or not key.startswith("run."))
    }


def settings_hash(fixed: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of the result of ``fixed_settings``."""
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()


def check_fixed_settings(before: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Path) -> None:
    """Compare the settings of a run with those that its checkpoint was trained with.

    Args:
        before: ``fixed_settings`` as the checkpoint recorded them; keys of an older version may be missing.
        now: those of the run.
        checkpoint: its folder.

    Raises:
        CompatibilityError: names every setting that differs, with both values.
    """
    differs = [key for key in before if key in now and before[key] != now[key]]
    if differs:
        raise CompatibilityError(
            "run.toml has other settings than the checkpoints were trained with",
            where=checkpoint,
            found=", ".join(f"{key} = {now[key]!r} (trained with {before[key]!r})" for key in differs),
            fix="Set them back in run.toml, or start a new run with another --out.",
        )


def changed_settings(old: Mapping[str, Any], specified: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare settings: ``{key: (old, new)}`` for each specified value that differs; ``auto`` leaves the old value."""
    before, after = flatten(old), flatten(specified)
    return {
        key: (before.get(key), value)
        for key, value in after.items()
        if value not in ("auto", None) and before.get(key) != value
    }


def check_changes(changed: Mapping[str, tuple[Any, Any]], run: Path) -> dict[str, tuple[Any, Any]]:
    """Check that a resume may change these settings, and return them.

    Raises:
        CompatibilityError: names every setting that must not change, with both values.
    """
    refused = {k: v for k, v in changed.items() if k not in CHANGEABLE_ON_RESUME}
    if refused:
        found = ", ".join(f"{k} = {new!r} (the run has {old!r})" for k, (old, new) in sorted(refused.items()))
        raise CompatibilityError(
            "a resumed run cannot change these settings",
            where=run,
            found=found,
            fix="Leave them as they are, or start a new run from its weights: "
            f"firstlight pretrain CORPUS --out NEW --from {quote_argument(run)}",
        )
    return dict(changed)
