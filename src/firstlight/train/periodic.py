"""What is due after a step: a line in the log, an evaluation, a sample, a checkpoint. None of it changes training."""

import time
from typing import Any

from firstlight import parallel
from firstlight.errors import FirstlightError
from firstlight.train.checkpoint import snapshot
from firstlight.train.context import EvaluationResult, TrainContext
from firstlight.types import StepMetrics


def after_step(ctx: TrainContext, report: StepMetrics, targets: int) -> EvaluationResult | None:
    """Log, evaluate, sample and save where their time has come.

    Args:
        ctx: the run.
        report: the step.
        targets: the step's, over all processes.
    """
    step, every, valid = report.step, ctx.train, None
    if step % every.log_every == 0 or step in (1, ctx.limits.steps) or not report.applied:
        _log(ctx, report, targets)
    if every.eval_every and step % every.eval_every == 0:
        valid = evaluate(ctx)
    if every.sample_every and step % every.sample_every == 0:
        sample(ctx)
    if every.checkpoint_every and step % every.checkpoint_every == 0:
        ctx.loop.checkpoint_pending = True
    good = ctx.counters.spike_steps == 0 and report.applied
    if (ctx.loop.checkpoint_pending and good) or (valid is not None and ctx.counters.best_step == step):
        save(ctx)
    return valid


def at_end(ctx: TrainContext, valid: EvaluationResult | None) -> EvaluationResult | None:
    """Evaluate and sample the last step, unless that was just done; ``valid`` is the last evaluation so far."""
    step, every = ctx.counters.step, ctx.train
    if valid is None or not every.eval_every or step % every.eval_every:
        valid = evaluate(ctx)
    if not every.sample_every or step % every.sample_every:
        sample(ctx)
    return valid


def save_last(ctx: TrainContext) -> None:
    """Save this step, unless it is on the disk as it is.

    Raises:
        StorageError: it could not be written.
    """
    ctx.checkpoints.wait()
    missing = ctx.loop.evaluation_unsaved or ctx.checkpoints.written != ctx.counters.step
    if parallel.broadcast_object(missing, ctx.device_context):
        save(ctx)
    ctx.checkpoints.wait(must=True)


def save(ctx: TrainContext) -> None:
    """Save this step, in the background; it is the best one where the last evaluation says so."""
    ctx.checkpoints.wait()  # before the copy, so that two of them are never held
    snap = snapshot(ctx.state, ctx.device_context, ctx.compatibility)
    if snap is not None:
        ctx.checkpoints.save(snap, best=ctx.counters.best_step == ctx.counters.step)
    ctx.loop.checkpoint_pending = ctx.loop.evaluation_unsaved = False


def evaluate(ctx: TrainContext) -> EvaluationResult | None:
    """Measure the valid loss, of the averaged weights too where there are any; log and count it."""
    if ctx.evaluate is None:
        return None
    rows = ctx.counters.micro_batch or max(1, ctx.rows // ctx.device_context.world_size)
    result = ctx.evaluate(rows)
    ctx.counters.record_evaluation(result.criterion, ctx.train.convergence.threshold)
    if ctx.counters.best_step == ctx.counters.step:
        ctx.loop.best = (ctx.counters.step, result)
    ctx.loop.evaluation_unsaved = True
    figures: dict[str, Any] = {"valid_loss": result.loss, **result.figures()}
    if ctx.state.ema is not None:
        with ctx.state.ema.average_parameters():
            figures["valid_loss_average"] = ctx.evaluate(rows).loss
    _write(ctx, figures)
    if ctx.peak_flops and ctx.device_context.device.type == "cpu":
        # Other work on the machine may have held the measurement before down, never up.
        ctx.peak_flops = max(ctx.peak_flops, parallel.peak_flops(ctx.device_context, seconds=0.02) or 0.0)
    return result


def sample(ctx: TrainContext) -> None:
    """Write a sample, leaving random numbers and the model's mode as they were."""
    if ctx.sample is None or not parallel.is_main_process(ctx.device_context):
        return
    model, random = ctx.state.model, parallel.rng_state()
    was_training = model.training
    try:
        text = ctx.sample()
    except FirstlightError as error:
        ctx.log.event(ctx.counters.step, "sample", f"no sample could be written: {error}")
        return
    finally:
        model.train(was_training)
        parallel.set_rng_state(random)
    ctx.log.sample(step=ctx.counters.step, prompt=ctx.train.sample_prompt, text=text)


def line(ctx: TrainContext, report: StepMetrics, targets: int) -> str:
    """Return the detail of the progress line."""
    rate = targets / report.seconds
    parts = [f"loss {report.loss:.4f}"]
    if ctx.counters.best_loss is not None:
        parts.append(f"best valid {ctx.counters.best_loss:.4f}")
    parts.append(f"{rate:,.0f} {ctx.target_unit}/s")
    mfu = _mfu(ctx, rate)
    if mfu is not None:
        parts.append(f"MFU {100 * mfu:.0f} %")
    left = seconds_left(ctx, time.perf_counter())
    if left is not None:
        minutes, seconds = divmod(round(left), 60)
        hours = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else str(minutes)
        parts.append(f"ETA {hours}:{seconds:02d}")
    return " · ".join(parts)


def seconds_left(ctx: TrainContext, now: float) -> float | None:
    """Return the time until the first limit, at the pace of this process so far; None where none is in sight.

    Args:
        ctx: the run.
        now: ``time.perf_counter()``.
    """
    ends = []
    if ctx.limits.steps is not None and ctx.loop.steps:
        ends.append((ctx.limits.steps - ctx.counters.step) * (now - ctx.loop.start_time) / ctx.loop.steps)
    if ctx.limits.minutes is not None:
        ends.append(60 * ctx.limits.minutes - ctx.counters.seconds)
    return max(0.0, min(ends)) if ends else None


def _log(ctx: TrainContext, report: StepMetrics, targets: int) -> None:
    rate = targets / report.seconds
    mfu = _mfu(ctx, rate)
    figures: dict[str, Any] = {
        "loss": report.loss,
        "lr": report.lr,
        "grad_norm": report.grad_norm,
        f"{ctx.target_unit}_per_second": round(rate, 1),
        "memory_bytes": parallel.peak_memory(ctx.device_context),
    }
    _write(ctx, figures if mfu is None else {**figures, "mfu": round(mfu, 4)})


def _write(ctx: TrainContext, figures: dict[str, Any]) -> None:
    ctx.update_seconds()
    counters = ctx.counters
    ctx.log.metrics(step=counters.step, tokens=counters.tokens, seconds=round(counters.seconds, 3), **figures)


def _mfu(ctx: TrainContext, rate: float) -> float | None:
    if not ctx.peak_flops:
        return None
    reached = rate * ctx.flops_per_token / ctx.device_context.world_size
    if ctx.device_context.device.type == "cpu":
        # What the run itself reaches, a measurement held down by other work must not deny.
        ctx.peak_flops = max(ctx.peak_flops, reached)
    return reached / ctx.peak_flops
