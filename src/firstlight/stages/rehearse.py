"""``pretrain --dry-run``: everything checked, a few steps taken in memory, nothing trained and nothing written."""

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from firstlight import parallel
from firstlight.plan import Plan, estimate
from firstlight.stages import assemble, inputs
from firstlight.stages.materials import materials
from firstlight.train import Job, row_bytes, train_step

_PROBED = 4


def rehearse(request: inputs.Request) -> Plan:
    """Prepare the run in a temporary folder, take a few steps, and return what the whole would need."""
    settings = request.settings
    place = parallel.resolve(settings.hardware)
    with tempfile.TemporaryDirectory(prefix="firstlight-dry-") as folder:
        made = materials(Path(folder), settings)
        config = assemble.model_config(settings, made)
        job = assemble.job(Path(folder), settings, config, made, place, assemble.process_start())
        try:
            seconds = _probe(job)
        finally:
            job.log.close()
        micro = job.counters.micro_rows
        activations = micro * row_bytes(
            config, bytes_per_number=4 if place.precision == "fp32" else 2,
            checkpointing=settings.train.activation_checkpointing,
        )  # fmt: skip
        return estimate(
            config, optimizer=settings.optim.name, steps=job.limits.steps, minutes=settings.train.minutes,
            step_tokens=job.rows * config.block_size, train_tokens=made.store.train.n_tokens,
            valid_tokens=made.store.valid.n_tokens, activation_bytes=activations,
            averaged=settings.train.average_decay > 0, kept_checkpoints=settings.train.keep_last,
            store_bytes=sum(f.stat().st_size for f in (Path(folder) / "data").rglob("*") if f.is_file()),
            step_seconds=seconds,
        )  # fmt: skip


def _probe(job: Job) -> float:
    """Return the median seconds of a step, the first one (compilation, warm-up) left out."""
    times = [time.perf_counter()]
    for step in range(_PROBED):
        batch = job.objective.batch(step * job.rows, job.rows // job.place.world_size)
        train_step(job.state, job.module, batch, 0.0, job.optim, job.place)
        times.append(time.perf_counter())
    return median(after - before for before, after in list(pairwise(times))[1:])
