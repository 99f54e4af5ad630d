"""What is due after a step: a line in the log, an evaluation, a sample, a checkpoint. None of it changes training."""

import time
from typing import Any

from firstlight import parallel
from firstlight.errors import FirstlightError
from firstlight.train.checkpoint import snapshot
from firstlight.train.job import Job, Measured
from firstlight.types import StepReport


def after_step(job: Job, report: StepReport, targets: int) -> Measured | None:
    """Log, evaluate, sample and save where their time has come.

    Args:
        job: the run.
        report: the step.
        targets: the step's, over all processes.
    """
    step, every, valid = report.step, job.train, None
    if step % every.log_every == 0 or step in (1, job.limits.steps) or not report.applied:
        _log(job, report, targets)
    if every.eval_every and step % every.eval_every == 0:
        valid = evaluate(job)
    if every.sample_every and step % every.sample_every == 0:
        sample(job)
    if every.checkpoint_every and step % every.checkpoint_every == 0:
        job.course.owes_save = True
    good = job.counters.spiking == 0 and report.applied
    if (job.course.owes_save and good) or (valid is not None and job.counters.best_step == step):
        save(job)
    return valid


def at_end(job: Job, valid: Measured | None) -> Measured | None:
    """Evaluate and sample the last step, unless that was just done; ``valid`` is the last evaluation so far."""
    step, every = job.counters.step, job.train
    if valid is None or not every.eval_every or step % every.eval_every:
        valid = evaluate(job)
    if not every.sample_every or step % every.sample_every:
        sample(job)
    return valid


def save_last(job: Job) -> None:
    """Save this step, unless it is on the disk as it is.

    Raises:
        StorageError: it could not be written.
    """
    job.checkpoints.wait()
    missing = job.course.unsaved or job.checkpoints.written != job.counters.step
    if parallel.broadcast_object(missing, job.place):
        save(job)
    job.checkpoints.wait(must=True)


def save(job: Job) -> None:
    """Save this step, in the background; it is the best one where the last evaluation says so."""
    job.checkpoints.wait()  # before the copy, so that two of them are never held
    snap = snapshot(job.state, job.place, job.contract)
    if snap is not None:
        job.checkpoints.save(snap, best=job.counters.best_step == job.counters.step)
    job.course.owes_save = job.course.unsaved = False


def evaluate(job: Job) -> Measured | None:
    """Measure the valid loss, of the averaged weights too where there are any; log and count it."""
    if job.measure is None:
        return None
    rows = job.counters.micro_rows or max(1, job.rows // job.place.world_size)
    result = job.measure(rows)
    job.counters.note_valid(result.criterion, job.train.convergence.threshold)
    job.course.unsaved = True
    figures: dict[str, Any] = {"valid_loss": result.loss, **result.figures()}
    if job.state.average is not None:
        with job.state.average.swapped():
            figures["valid_loss_average"] = job.measure(rows).loss
    _write(job, figures)
    if job.ceiling and job.place.device.type == "cpu":
        # Other work on the machine may have held the measurement before down, never up.
        job.ceiling = max(job.ceiling, parallel.ceiling(job.place, seconds=0.02) or 0.0)
    return result


def sample(job: Job) -> None:
    """Write a sample, leaving random numbers and the model's mode as they were."""
    if job.sample is None or not parallel.is_main(job.place):
        return
    model, random = job.state.model, parallel.rng_state()
    was_training = model.training
    try:
        text = job.sample()
    except FirstlightError as error:
        job.log.event(job.counters.step, "sample", f"no sample could be written: {error}")
        return
    finally:
        model.train(was_training)
        parallel.set_rng_state(random)
    job.log.sample(step=job.counters.step, prompt=job.train.sample_prompt, text=text)


def line(job: Job, report: StepReport, targets: int) -> str:
    """Return the detail of the progress line."""
    rate = targets / report.seconds
    parts = [f"loss {report.loss:.4f}"]
    if job.counters.best_loss is not None:
        parts.append(f"best valid {job.counters.best_loss:.4f}")
    parts.append(f"{rate:,.0f} {job.counts}/s")
    mfu = _mfu(job, rate)
    if mfu is not None:
        parts.append(f"MFU {100 * mfu:.0f} %")
    left = seconds_left(job, time.perf_counter())
    if left is not None:
        minutes, seconds = divmod(round(left), 60)
        hours = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else str(minutes)
        parts.append(f"ETA {hours}:{seconds:02d}")
    return " · ".join(parts)


def seconds_left(job: Job, now: float) -> float | None:
    """Return the time until the first limit, at the pace of this process so far; None where none is in sight.

    Args:
        job: the run.
        now: ``time.perf_counter()``.
    """
    ends = []
    if job.limits.steps is not None and job.course.steps:
        ends.append((job.limits.steps - job.counters.step) * (now - job.course.began) / job.course.steps)
    if job.limits.minutes is not None:
        ends.append(60 * job.limits.minutes - job.counters.seconds)
    return max(0.0, min(ends)) if ends else None


def _log(job: Job, report: StepReport, targets: int) -> None:
    rate = targets / report.seconds
    mfu = _mfu(job, rate)
    figures: dict[str, Any] = {
        "loss": report.loss, "lr": report.lr, "grad_norm": report.grad_norm, f"{job.counts}_per_second": round(rate, 1),
        "memory_bytes": parallel.memory(job.place),
    }  # fmt: skip
    _write(job, figures if mfu is None else {**figures, "mfu": round(mfu, 4)})


def _write(job: Job, figures: dict[str, Any]) -> None:
    job.tell_time()
    counters = job.counters
    job.log.metrics(step=counters.step, tokens=counters.tokens, seconds=round(counters.seconds, 3), **figures)


def _mfu(job: Job, rate: float) -> float | None:
    if not job.ceiling:
        return None
    reached = rate * job.flops_per_token / job.place.world_size
    if job.place.device.type == "cpu":
        # What the run itself reaches, a measurement held down by other work must not deny.
        job.ceiling = max(job.ceiling, reached)
    return reached / job.ceiling
