"""``pretrain --dry-run``: check everything, take a few steps in memory, and estimate what the run needs."""

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from firstlight import parallel
from firstlight.planning import Plan, estimate
from firstlight.runs import Recipe, RunDirectory
from firstlight.stages.artifacts import PretrainArtifacts
from firstlight.stages.process_clock import process_start
from firstlight.stages.settings import PretrainSettings
from firstlight.train import TrainContext, activation_bytes, train_step

_TIMED_STEPS = 4


def plan_dry_run(recipe: Recipe[PretrainSettings, PretrainArtifacts, Any], settings: PretrainSettings) -> Plan:
    """Prepare the run in a temporary directory, take a few steps, and estimate the needs of the whole run."""
    device_context = parallel.resolve_hardware(settings.hardware)
    with tempfile.TemporaryDirectory(prefix="firstlight-dry-") as folder:
        run = RunDirectory(Path(folder))
        artifacts = recipe.prepare(run, settings, prepared=False, restores=False)
        settings = recipe.resolve(settings, artifacts, device_context)
        ctx = recipe.build(run, settings, artifacts, device_context, process_start())
        try:
            seconds = _step_seconds(ctx)
        finally:
            ctx.log.close()
        return estimate(**_measured(settings, artifacts, ctx, run), step_seconds=seconds)


def _measured(
    settings: PretrainSettings, artifacts: PretrainArtifacts, ctx: TrainContext, run: RunDirectory
) -> dict[str, Any]:
    config = settings.model.shape()
    activations = ctx.counters.micro_batch * activation_bytes(
        config,
        bytes_per_number=4 if ctx.device_context.precision == "fp32" else 2,
        checkpointing=settings.train.activation_checkpointing,
    )
    return {
        "config": config,
        "optimizer": settings.optim,
        "steps": ctx.limits.steps,
        "minutes": settings.train.minutes,
        "step_tokens": ctx.rows * config.block_size,
        "train_tokens": artifacts.store.train.n_tokens,
        "valid_tokens": artifacts.store.valid.n_tokens,
        "activation_bytes": activations,
        "ema": settings.train.ema_decay > 0,
        "kept_checkpoints": settings.train.keep_last,
        "store_bytes": sum(f.stat().st_size for f in run.data.rglob("*") if f.is_file()),
    }


def _step_seconds(ctx: TrainContext) -> float:
    """Measure the median seconds of a step, without the first one (compilation, warm-up)."""
    times = [time.perf_counter()]
    for step in range(_TIMED_STEPS):
        batch = ctx.batches.batch(step * ctx.rows, ctx.rows // ctx.device_context.world_size)
        train_step(ctx.state, ctx.module, batch, 0.0, ctx.optim, ctx.device_context)
        times.append(time.perf_counter())
    return median(after - before for before, after in list(pairwise(times))[1:])
