"""Who belongs to whom: the hashes that store, checkpoint and report carry, and what differs on a resume."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight.config import flatten
from firstlight.errors import ContractError
from firstlight.train.settings import MAY_CHANGE


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the settings that a resumed run may not change."""
    fixed = {k: v for k, v in sorted(flatten(settings).items()) if k not in MAY_CHANGE}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()


def changed_settings(old: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return ``{key: (old, asked)}`` for what is asked for and differs; ``auto`` asks for nothing."""
    before, after = flatten(old), flatten(asked)
    return {
        key: (before.get(key), value)
        for key, value in after.items()
        if value not in ("auto", None) and before.get(key) != value
    }


def check_changes(differing: Mapping[str, tuple[Any, Any]], run: Path) -> dict[str, tuple[Any, Any]]:
    """Return the changes that a resume may make.

    Raises:
        ContractError: names every other changed setting, with both values.
    """
    refused = {k: v for k, v in differing.items() if k not in MAY_CHANGE}
    if refused:
        found = ", ".join(f"{k} = {new!r} (the run has {old!r})" for k, (old, new) in sorted(refused.items()))
        raise ContractError(
            "a resumed run cannot change these settings",
            where=run,
            found=found,
            fix=f"Leave them as they are, or start a new run from its weights: pretrain … --from {run} --out NEW",
        )
    return dict(differing)
