"""Logging, validation, samples and checkpoints every N steps. None of it changes training."""

import math
import time
from typing import Any

from firstlight import parallel, progress
from firstlight.errors import FirstlightError, Interrupted
from firstlight.signals import raise_on_signal
from firstlight.train.checkpoint import snapshot
from firstlight.train.context import EvaluationResult, TrainContext
from firstlight.train.evaluation_line import evaluation_line, sample_line
from firstlight.types import StepMetrics


def on_step_end(ctx: TrainContext, metrics: StepMetrics) -> EvaluationResult | None:
    """Log, evaluate, sample and save if they are due after this step; return the evaluation, if any."""
    step, train, valid = metrics.step, ctx.train, None
    if step % train.log_every == 0 or step in (1, ctx.limits.steps) or not metrics.applied:
        _log_step(ctx, metrics)
    if ctx.loop.waiting is not None and (text := ctx.loop.waiting.check()):
        progress.notice(text)
    if train.eval_every and step % train.eval_every == 0:
        valid = evaluate(ctx)
    if train.sample_interval and step % train.sample_interval == 0:
        sample(ctx)
    if train.checkpoint_every and step % train.checkpoint_every == 0:
        ctx.loop.checkpoint_pending = True
    is_normal = ctx.counters.spike_steps == 0 and metrics.applied
    if (ctx.loop.checkpoint_pending and is_normal) or (valid is not None and ctx.counters.best_step == step):
        save(ctx)
    _update_report(ctx, valid)
    return valid


def on_train_begin(ctx: TrainContext) -> EvaluationResult | None:
    """Evaluate, sample and save what is due at the step that training begins or goes on at.

    At step 0 that is an evaluation, and a checkpoint where the run starts from a model: with it the run no longer needs
    that model, and the best checkpoint can be the start. After a resume it is what a signal cut short.

    Returns:
        The evaluation, if there was one.
    """
    step, train, valid = ctx.counters.step, ctx.train, None
    if train.eval_every and step % train.eval_every == 0 and ctx.counters.evaluated_step != step:
        valid = evaluate(ctx)
    if step and train.sample_interval and step % train.sample_interval == 0:
        sample(ctx)
    is_start = step == 0 and ctx.starts_from_model and ctx.checkpoints.last_saved_step != 0
    if is_start or (valid is not None and ctx.counters.best_step == step):
        save(ctx)
    _update_report(ctx, valid)
    if step == 0:  # as part of the set-up, it does not count in the progress of a schedule in minutes
        ctx.restart_clock()
    return valid


def on_train_end(ctx: TrainContext, valid: EvaluationResult | None) -> EvaluationResult | None:
    """Evaluate and sample after the last step, unless that was just done; ``valid`` is the last evaluation so far."""
    step, train = ctx.counters.step, ctx.train
    if valid is None or not train.eval_every or step % train.eval_every:
        valid = evaluate(ctx)
    if not train.sample_interval or step % train.sample_interval:
        sample(ctx)
    return valid


def save_final(ctx: TrainContext) -> None:
    """Save the current step, unless its checkpoint is on disk already.

    Raises:
        StorageError: it could not be written.
    """
    ctx.checkpoints.wait()
    missing = ctx.loop.evaluation_unsaved or ctx.checkpoints.last_saved_step != ctx.counters.step
    if parallel.broadcast_object(missing, ctx.device_context):
        save(ctx)
    with progress.task("write the checkpoint"):
        ctx.checkpoints.wait(raise_errors=True)


def save(ctx: TrainContext) -> None:
    """Save the current step in the background; as the best one if it has the lowest validation loss so far."""
    ctx.checkpoints.wait()  # before the copy, so that there are never two in memory
    copy = snapshot(ctx.state, ctx.device_context, ctx.compatibility)
    if copy is not None:
        ctx.checkpoints.save(copy, best=ctx.counters.best_step == ctx.counters.step)
    ctx.loop.checkpoint_pending = ctx.loop.evaluation_unsaved = False


def evaluate(ctx: TrainContext) -> EvaluationResult | None:
    """Compute the validation loss, also of averaged weights if there are any; log and record it.

    If a signal cuts it short, nothing is recorded; the next process of the run repeats it (``on_resume``).
    """
    if ctx.evaluate is None:
        return None
    rows = ctx.counters.micro_batch or max(1, ctx.rows // ctx.device_context.world_size)
    rng_state, ema_metrics = parallel.rng_state(), dict[str, float]()
    try:
        result = ctx.evaluate(rows)
        if ctx.counters.evaluated_step == ctx.counters.step:
            return result  # counted and logged by a process that was killed before it could write the run's result
        if ctx.state.ema is not None:
            with ctx.state.ema.average_parameters():
                ema_metrics["valid_loss_average"] = ctx.evaluate(rows).loss
    except Interrupted:
        parallel.set_rng_state(rng_state)
        return None
    # A metric, such as the accuracy, may be finite where the model's outputs are not.
    criterion = result.criterion if math.isfinite(result.loss) else math.nan
    previous = ctx.counters.evaluated_loss
    if ctx.counters.step == 0 and (not ctx.starts_from_model or ctx.has_new_heads):
        # Only logged: random weights are never the best ones.
        ctx.counters.evaluated_step, ctx.counters.evaluated_loss = 0, criterion if math.isfinite(criterion) else None
    else:
        ctx.counters.record_evaluation(criterion, ctx.train.convergence.threshold)
    if ctx.counters.best_step == ctx.counters.step:
        ctx.loop.best = (ctx.counters.step, result)
    ctx.loop.evaluation_unsaved = True
    _log(ctx, {"valid_loss": result.loss, **result.metrics(), **ema_metrics})
    if parallel.is_main_process(ctx.device_context):
        line = evaluation_line(ctx, result, previous, ema_metrics.get("valid_loss_average"))
        progress.notice(line, level="info" if math.isfinite(result.loss) else "warning")
    return result


def sample(ctx: TrainContext) -> None:
    """Log a generated sample; random states and the model's mode do not change.

    If a signal cuts it short, the next process of the run repeats it (``on_resume``).
    """
    if ctx.sample is None or not parallel.is_main_process(ctx.device_context) or ctx.log.has_sample(ctx.counters.step):
        return
    model, rng_state = ctx.state.model, parallel.rng_state()
    was_training = model.training
    try:
        with raise_on_signal(), progress.each_notice_once(ctx.loop.sample_notices):
            text = ctx.sample()
    except Interrupted:
        return
    except FirstlightError as error:
        ctx.log.event(ctx.counters.step, "sample", f"no sample could be generated: {error}")
        return
    finally:
        model.train(was_training)
        parallel.set_rng_state(rng_state)
    train = ctx.train
    ctx.log.sample(step=ctx.counters.step, prompt=train.sample_prompt, temperature=train.sample_temperature, text=text)
    if ctx.shows_samples:
        progress.notice(sample_line(ctx.counters.step, train.sample_prompt, text))


def _update_report(ctx: TrainContext, valid: EvaluationResult | None) -> None:
    """Rewrite the report where an evaluation is due, if there is time for it; also of a run without validation data."""
    is_due = ctx.train.eval_every and ctx.counters.step % ctx.train.eval_every == 0 and ctx.evaluate is None
    if ctx.report is not None and (valid is not None or is_due):
        ctx.update_seconds()
        ctx.report.update(ctx.counters.seconds - ctx.loop.seconds_before)


def shown_loss(metrics: StepMetrics) -> float:
    """Return the loss that stands next to the validation loss: of tasks, without the language-model loss."""
    return metrics.parts.get("task_loss", metrics.loss)


def progress_text(ctx: TrainContext, metrics: StepMetrics, *, is_last: bool = False) -> str:
    """Return the details of the live line, the most important first; after the last step without the time left."""
    rate = _rate(ctx, metrics)
    parts = []
    left = None if is_last else seconds_left(ctx, time.perf_counter())
    if left is not None:
        minutes, seconds = divmod(round(left), 60)
        hours = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else str(minutes)
        parts.append(f"ETA {hours}:{seconds:02d}")
    parts.append(f"loss {shown_loss(metrics):.4f}")
    if ctx.counters.evaluated_loss is not None:
        valid = ctx.counters.evaluated_loss if ctx.criterion == "loss" else -ctx.counters.evaluated_loss
        parts.append(f"valid {ctx.criterion} {valid:.4f}")
    parts.append(f"{rate:,.0f} {ctx.target_unit}/s")
    mfu = _mfu(ctx, rate)
    if mfu is not None:
        parts.append(f"MFU {100 * mfu:.0f} %")
    return " · ".join(parts)


def seconds_left(ctx: TrainContext, now: float) -> float | None:
    """Estimate the time until the first limit at the speed of this process so far; None without a limit.

    Args:
        ctx: the run.
        now: ``time.perf_counter()``.
    """
    estimates = []
    if ctx.limits.steps is not None and ctx.loop.steps:
        step_seconds = (now - ctx.loop.start_time) / ctx.loop.steps
        estimates.append((ctx.limits.steps - ctx.counters.step) * step_seconds)
    if ctx.limits.minutes is not None:
        estimates.append(60 * ctx.limits.minutes - ctx.counters.seconds)
    return max(0.0, min(estimates)) if estimates else None


def _log_step(ctx: TrainContext, metrics: StepMetrics) -> None:
    rate = _rate(ctx, metrics)
    mfu = _mfu(ctx, rate)
    logged: dict[str, Any] = {
        "loss": metrics.loss,
        **metrics.parts,
        "lr": metrics.lr,
        "grad_norm": metrics.grad_norm,
        f"{ctx.target_unit}_per_second": round(rate, 1),
        "memory_bytes": parallel.peak_memory(ctx.device_context),
    }
    if mfu is not None:
        logged["mfu"] = round(mfu, 4)
        _say_if_ceiling_is_low(ctx, mfu)
    _log(ctx, logged)


def _say_if_ceiling_is_low(ctx: TrainContext, mfu: float) -> None:
    """Say once that the peak was measured too low, which other programs can cause."""
    if mfu <= 1 or ctx.loop.said_ceiling_is_low:
        return
    ctx.loop.said_ceiling_is_low = True
    text = (
        f"MFU {100 * mfu:.0f} % is above 100 %: the device's peak of {ctx.peak_flops:.3g} FLOP/s, measured before the "
        "first step, is too low; other programs may have been busy then"
    )
    ctx.log.event(ctx.counters.step, "mfu", text)


def _log(ctx: TrainContext, metrics: dict[str, Any]) -> None:
    ctx.update_seconds()
    counters = ctx.counters
    seen = counters.tokens if ctx.target_unit == "tokens" else counters.step * ctx.rows
    ctx.log.metrics(step=counters.step, **{ctx.target_unit: seen}, seconds=round(counters.seconds, 3), **metrics)


def _rate(ctx: TrainContext, metrics: StepMetrics) -> float:
    """Return the tokens, or rows of tasks, per second; a row may have several targets, as the words of a sentence."""
    return (metrics.targets if ctx.target_unit == "tokens" else metrics.rows) / metrics.seconds


def _mfu(ctx: TrainContext, rate: float) -> float | None:
    """Return the model FLOPs utilization (Chowdhery et al. 2022), or None if the device's peak is unknown."""
    if not ctx.peak_flops:
        return None
    return rate * ctx.flops_per_token / ctx.device_context.world_size / ctx.peak_flops
