"""``pretrain --dry-run``: check everything, estimate what the run needs, and measure how long a step takes."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from firstlight import parallel, progress
from firstlight.model import count_parameters
from firstlight.planning import Plan, estimate
from firstlight.runs import Recipe, RunDirectory
from firstlight.stages.artifacts import PretrainArtifacts
from firstlight.stages.pretrain_setup import StepSizes, step_sizes
from firstlight.stages.process_clock import process_start
from firstlight.stages.settings import PretrainSettings
from firstlight.train import TrainContext, activation_bytes, free_device_memory, train_step
from firstlight.types import Batch

_REPEATS = 3
_MAX_SECONDS = 10.0  # of all measurements, as expected from the first one
_GROWTH = 4  # of the part that is timed, while it is expected to take short enough
_PROBE_TOKENS = 128  # of the first measurement
_MAX_TOKENS = 32_768  # that are timed: a larger step is never taken as a whole
_GIGABYTE = 1e9


def plan_dry_run(
    recipe: Recipe[PretrainSettings, PretrainArtifacts, Any],
    settings: PretrainSettings,
    on_estimate: Callable[[Plan], object] = lambda _: None,
) -> Plan:
    """Prepare the run in a temporary directory, estimate what it needs, and time a part of a step.

    Args:
        recipe: of pre-training.
        settings: of the run.
        on_estimate: called with the plan before anything is timed.

    Returns:
        The plan; without a time where the run needs more memory than is free.
    """
    device_context = parallel.resolve_hardware(settings.hardware)
    with tempfile.TemporaryDirectory(prefix="firstlight-dry-") as folder:
        run = RunDirectory(Path(folder))
        with progress.task("prepare the data"):
            artifacts = recipe.prepare(run, settings, prepared=False, restores=False)
        settings = recipe.resolve(settings, artifacts, device_context)
        parameters = count_parameters(settings.model.shape()).total
        sizes = step_sizes(settings, artifacts, device_context, parameters)
        plan = estimate(**_facts(settings, artifacts, sizes, device_context, run), step_seconds=None)
        on_estimate(plan)
        free = free_device_memory(device_context.device)
        if plan.memory_bytes > free:
            needed = f"{plan.memory_bytes / _GIGABYTE:,.1f} GB of memory, and {free / _GIGABYTE:,.1f} GB are free"
            progress.warn(f"the time of a step is not measured: the run needs about {needed} on this machine")
            return plan
        with progress.task("build the model"):
            ctx = recipe.build(run, settings, artifacts, device_context, process_start())
        try:
            with progress.task("time a part of a step"):
                seconds, timed_tokens = _step_seconds(ctx, settings.model.shape().block_size)
        finally:
            ctx.log.close()
        sizes = replace(sizes, micro_batch=ctx.counters.micro_batch, limits=ctx.limits)
        facts = _facts(settings, artifacts, sizes, device_context, run)
        return estimate(**facts, step_seconds=seconds, timed_tokens=timed_tokens)


def _facts(
    settings: PretrainSettings,
    artifacts: PretrainArtifacts,
    sizes: StepSizes,
    device_context: parallel.DeviceContext,
    run: RunDirectory,
) -> dict[str, Any]:
    config = settings.model.shape()
    activations = sizes.micro_batch * activation_bytes(
        config,
        bytes_per_number=4 if device_context.precision == "fp32" else 2,
        checkpointing=settings.train.activation_checkpointing,
    )
    return {
        "config": config,
        "optimizer": settings.optim,
        "steps": sizes.limits.steps,
        "minutes": settings.train.minutes,
        "step_tokens": sizes.rows * config.block_size,
        "train_tokens": artifacts.store.train.n_tokens,
        "valid_tokens": artifacts.store.valid.n_tokens,
        "activation_bytes": activations,
        "ema": settings.train.ema_decay > 0,
        "kept_checkpoints": settings.train.keep_last,
        "store_bytes": sum(f.stat().st_size for f in run.data.rglob("*") if f.is_file()),
    }


def _step_seconds(ctx: TrainContext, block_size: int) -> tuple[float, int]:
    """Measure the seconds of a step, or of a part of it that takes about a second, which are then scaled up.

    A part is one or two micro-batches and an update of the weights. Their difference is the time of a micro-batch, of
    which a step has many; it has one update.

    Returns:
        The seconds of a step, and the tokens of the part: those of a step where whole ones were measured.
    """
    rows, micro_batch = ctx.rows // ctx.device_context.world_size, ctx.counters.micro_batch
    step_tokens = rows * block_size
    most_rows = min(micro_batch, max(1, _MAX_TOKENS // block_size))
    if ctx.device_context.compile:  # each size would be compiled
        part, seconds = (most_rows, block_size), math.inf
    else:
        part, seconds = _largest_part(ctx, most_rows, block_size)
    part_tokens = part[0] * part[1]
    if step_tokens <= _MAX_TOKENS and step_tokens / part_tokens * seconds * (1 + _REPEATS) <= _MAX_SECONDS:
        times = [_part_seconds(ctx, micro_batch, block_size, rows // micro_batch) for _ in range(1 + _REPEATS)]
        return median(times[1:]), ctx.rows * block_size
    _part_seconds(ctx, *part)  # warm-up
    one, two = (median(_part_seconds(ctx, *part, n) for _ in range(_REPEATS)) for n in (1, 2))
    # Other work on the machine may make the difference too small or too large.
    pass_seconds = min(max(two - one, 0.1 * one), one)
    n_passes = step_tokens / part_tokens
    return one - pass_seconds + n_passes * pass_seconds, part_tokens


def _largest_part(ctx: TrainContext, most_rows: int, block_size: int) -> tuple[tuple[int, int], float]:
    """Return rows and tokens a row of the largest micro-batch that can be timed, and the seconds that it takes.

    It grows from a few tokens, since small ones are slower for their size than those of the run.
    """
    part = (1, min(block_size, _PROBE_TOKENS))
    _part_seconds(ctx, *part)  # warm-up
    seconds = _part_seconds(ctx, *part)
    larger = (1, block_size) if block_size > part[1] else (min(_GROWTH, most_rows), block_size)
    while larger != part:
        expected = seconds * larger[0] * larger[1] / (part[0] * part[1])
        if expected * 3 * _REPEATS > _MAX_SECONDS:
            break
        part, seconds = larger, _part_seconds(ctx, *larger)
        larger = (min(_GROWTH * part[0], most_rows), block_size)
    return part, seconds


def _part_seconds(ctx: TrainContext, rows: int, length: int, n: int = 1) -> float:
    """Return the seconds of an update with ``n`` micro-batches of ``rows`` rows, each cut to ``length`` tokens."""
    batch = ctx.batches.batch(0, n * rows)
    assert isinstance(batch, Batch), "of pre-training"
    parts = (batch.inputs, batch.targets, batch.weights, batch.starts)
    cut = Batch(*(None if part is None else part[:, :length] for part in parts))  # type: ignore[arg-type]
    micro_batch, ctx.counters.micro_batch = ctx.counters.micro_batch, rows
    start = time.perf_counter()
    try:
        train_step(ctx.state, ctx.module, cut, 0.0, ctx.optim, ctx.device_context)
    finally:
        ctx.counters.micro_batch = micro_batch
    return time.perf_counter() - start
