"""The default learning rate of a run that starts from a trained model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from firstlight import progress
from firstlight.config import merge, resolve, without_keys
from firstlight.errors import ConfigError
from firstlight.optim import OptimizerSettings
from firstlight.runs import Layers, RunDirectory
from firstlight.stages.settings import PretrainSettings

# Fraction of a fresh start's learning rate, and steps of warm-up: docs/decisions/0015-continued-learning-rate.md.
LR_RATIO = 0.1
WARMUP_STEPS = 10


def add_continued_lr(layers: Layers, run: RunDirectory) -> Layers:
    """Add the default learning rate and warm-up of a run that starts from a model, below what the user set.

    A run that is resumed keeps its own.
    """
    given = merge(layers.file, layers.arguments)
    source = run.read_settings() if run.exists else given
    if not source.get("run", {}).get("init_from"):
        return layers
    try:
        optim = resolve(PretrainSettings, {"optim": merge(layers.preset, given).get("optim", {})}).optim
    except ConfigError:  # reported with the request
        return layers
    if run.exists:
        keys = [f"optim.{name}" for name in (*optim.lr_fields, "schedule.warmup_steps")]
        return replace(layers, preset=without_keys(layers.preset, keys))
    table = _default_table(optim, given.get("optim", {}))
    if rates := [f"optim.{name}={table[name]:.3g}" for name in optim.lr_fields if name in table]:
        progress.notice(f"{', '.join(rates)}: {LR_RATIO:g} of the default, since the run starts from a trained model")
    return replace(layers, preset=merge(layers.preset, {"optim": table}))


def _default_table(optim: OptimizerSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the settings that are not given."""
    table: dict[str, Any] = {name: getattr(optim, name) * LR_RATIO for name in optim.lr_fields if name not in given}
    if not {"warmup_steps", "warmup_ratio"} & set(given.get("schedule", {})):
        table["schedule"] = {"warmup_steps": max(optim.schedule.warmup_steps, WARMUP_STEPS)}
    return table
