"""Compatibility of a run's artifacts: hashes of settings and source code, and which settings a resume may change."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight.config import flatten
from firstlight.errors import CompatibilityError
from firstlight.files import source_hash
from firstlight.train import CHANGEABLE_ON_RESUME

# Packages whose code determines the weights of every run. Recipes add packages of higher layers.
_PACKAGES = ("corpus", "files", "tokenizer", "vectors", "store", "model", "optim", "parallel", "lm", "train", "runs")


def code_hash(*packages: str) -> str:
    """Compute the SHA-256 of the source code that determines the weights.

    Args:
        packages: packages of the recipe, in addition to those of every run.
    """
    return source_hash((*_PACKAGES, *packages))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of the settings that a resumed run must not change."""
    fixed = {k: v for k, v in sorted(flatten(settings).items()) if k not in CHANGEABLE_ON_RESUME}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()


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
            fix=f"Leave them as they are, or start a new run from its weights: pretrain … --from {run} --out NEW",
        )
    return dict(changed)
