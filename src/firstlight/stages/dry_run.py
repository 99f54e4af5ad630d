"""``pretrain --dry-run``: everything checked, a few steps taken in memory, nothing trained and nothing written."""

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from firstlight import parallel
from firstlight.planning import Plan, estimate
from firstlight.stages import pretrain_setup
from firstlight.stages import request as requests
from firstlight.stages.artifacts import materials
from firstlight.train import TrainContext, row_bytes, train_step

_PROBED = 4


def dry_run_plan(request: requests.Request) -> Plan:
    """Prepare the run in a temporary folder, take a few steps, and return what the whole would need."""
    settings = request.settings
    device_context = parallel.resolve(settings.hardware)
    with tempfile.TemporaryDirectory(prefix="firstlight-dry-") as folder:
        made = materials(Path(folder), settings)
        config = pretrain_setup.model_config(settings, made)
        ctx = pretrain_setup.ctx(Path(folder), settings, config, made, device_context, pretrain_setup.process_start())
        try:
            seconds = _probe(ctx)
        finally:
            ctx.log.close()
        micro = ctx.counters.micro_rows
        activations = micro * row_bytes(
            config,
            bytes_per_number=4 if device_context.precision == "fp32" else 2,
            checkpointing=settings.train.activation_checkpointing,
        )
        return estimate(
            config,
            optimizer=settings.optim,
            steps=ctx.limits.steps,
            minutes=settings.train.minutes,
            step_tokens=ctx.rows * config.block_size,
            train_tokens=made.store.train.n_tokens,
            valid_tokens=made.store.valid.n_tokens,
            activation_bytes=activations,
            ema=settings.train.ema_decay > 0,
            kept_checkpoints=settings.train.keep_last,
            store_bytes=sum(f.stat().st_size for f in (Path(folder) / "data").rglob("*") if f.is_file()),
            step_seconds=seconds,
        )


def _probe(ctx: TrainContext) -> float:
    """Return the median seconds of a step, the first one (compilation, warm-up) left out."""
    times = [time.perf_counter()]
    for step in range(_PROBED):
        batch = ctx.objective.batch(step * ctx.rows, ctx.rows // ctx.device_context.world_size)
        train_step(ctx.state, ctx.module, batch, 0.0, ctx.optim, ctx.device_context)
        times.append(time.perf_counter())
    return median(after - before for before, after in list(pairwise(times))[1:])
