"""The training loop: take a step, check its loss, then log, validate, sample and save when due.

The loop knows steps only. Batches come from a BatchSource, the loss from the module; logging, validation, samples and
checkpoints are in ``periodic``.
"""

import gc
import math
import time

import torch

from firstlight import optim, parallel, progress
from firstlight.errors import ConfigError, Failure, TrainingError
from firstlight.signals import NAMES, StopSignals
from firstlight.train import periodic, spike_guard
from firstlight.train.checkpoint import restore
from firstlight.train.context import EvaluationResult, FitResult, TrainContext
from firstlight.train.micro_batch import halve, is_out_of_memory
from firstlight.train.prefetch import Prefetcher
from firstlight.train.state import Counters
from firstlight.train.step import StepResult, train_step
from firstlight.types import BatchLike, StepMetrics

_INTERRUPTIONS = (*NAMES, "stop_after")
_MAX_DOCUMENTS = 5  # documents of a batch that a message names


def fit(ctx: TrainContext) -> FitResult:
    """Train until a limit or a signal, and save, so that the same call continues from there.

    Raises:
        ConfigError: only convergence ends the run, and there is no validation data.
        TrainingError: too many non-finite steps, too many rollbacks, out of memory with one row, or the last loss or
            the last evaluation is not finite.
        StorageError: the last checkpoint, or the last lines of the log, could not be written.
    """
    if ctx.limits.name == "convergence" and ctx.evaluate is None:
        raise ConfigError(
            "there is no validation text for convergence", where="train.convergence", fix="Set train.steps."
        )
    metrics: StepMetrics | None = None
    ctx.start_clock()
    ctx.module.train()
    gc.freeze()  # otherwise the garbage collector scans all imported modules again and again between steps
    try:
        with (
            StopSignals() as signals,
            Prefetcher(ctx.load_batch) as prefetcher,
            progress.task("train", ctx.limits.steps, "steps") as task,
        ):
            # Where it was chosen by trials, it was compiled for them.
            compiles = ctx.device_context.compile and not ctx.device_context.trials
            task.advance(ctx.counters.step, "compiling with the first step" if compiles else "")
            valid = periodic.on_train_begin(ctx)
            while (stopped_by := _stop_reason(ctx, signals)) is None:
                step_before, text = ctx.counters.step, ""
                metrics = _train_step(ctx, prefetcher)
                if metrics.targets == 0 or _check_step(ctx, metrics):
                    ctx.loop.train_loss, ctx.loop.shown_loss = metrics.loss, periodic.shown_loss(metrics)
                    valid = periodic.on_step_end(ctx, metrics) or valid
                    text = periodic.progress_text(ctx, metrics)
                task.advance(ctx.counters.step - step_before, text)
            finished = stopped_by not in _INTERRUPTIONS
            if finished:
                valid = periodic.on_train_end(ctx, valid)
                _say_if_best_is_start(ctx)
            if metrics is not None:
                task.advance(0, periodic.progress_text(ctx, metrics, is_last=True))
            ctx.update_seconds()
            periodic.save_final(ctx)
            if finished:
                _check_finite(ctx, metrics, valid)
        if finished and (name := _signalled_by(ctx, signals)):  # while it evaluated or saved
            stopped_by, finished = name, False
    finally:
        gc.unfreeze()
        ctx.log.close()
        ctx.checkpoints.wait()
    ctx.log.check_complete()
    counters = ctx.counters
    best = ctx.loop.best[1] if ctx.loop.best and ctx.loop.best[0] == counters.best_step else None
    return FitResult(
        stopped_by,
        finished,
        counters.step,
        counters.tokens,
        counters.seconds,
        math.nan if ctx.loop.train_loss is None else ctx.loop.train_loss,
        valid,
        best,
        ctx.criterion,
        None if valid is None else counters.evaluated_step,
        counters.best_step,
        counters.best_loss,
    )


def _say_if_best_is_start(ctx: TrainContext) -> None:
    """Say that training did not improve the model that it started from."""
    if ctx.starts_from_model and ctx.counters.best_step == 0 and ctx.counters.step:
        text = (
            f"no evaluation has a better {ctx.criterion} than the model that the run started from, so its best "
            "checkpoint is step 0; try a lower optim.lr, fewer steps or other data"
        )
        ctx.log.event(ctx.counters.step, "best", text)


def _check_finite(ctx: TrainContext, metrics: StepMetrics | None, valid: EvaluationResult | None) -> None:
    """Refuse to call a run finished that trained on nothing, or whose last step or evaluation is not finite."""
    if ctx.counters.step and not ctx.counters.tokens:
        raise TrainingError(
            "the run has trained on nothing, so it counts as failed: none of its batches has a target",
            where=f"step {ctx.counters.step}",
            fix="Look at the data.",
        )
    step, losses = ctx.counters.step, "loss or gradient of the last step"
    # With fp16, gradients that overflow while the loss is finite are how the loss scale is found.
    is_finite = metrics is not None and math.isfinite(metrics.loss)
    if ctx.counters.nonfinite_steps == 0 or (ctx.state.scaler is not None and (metrics is None or is_finite)):
        if valid is None or math.isfinite(valid.loss):
            return
        losses = "loss on the validation data"
    raise TrainingError(
        f"the {losses} is not finite, so the run counts as failed",
        where=f"step {step}",
        fix="Lower optim.lr or lengthen its warm-up, and look at the data. Earlier checkpoints are intact.",
    )


def _stop_reason(ctx: TrainContext, signals: StopSignals) -> str | None:
    """Return why the run ends here; processes agree on it, since a signal reaches them at different steps."""
    reached = ctx.limits.reached(ctx.counters, ctx.train)
    if reached is None and ctx.train.stop_after and ctx.counters.step >= ctx.train.stop_after:
        return "stop_after"
    return _signalled_by(ctx, signals) or reached


def _signalled_by(ctx: TrainContext, signals: StopSignals) -> str | None:
    """Return the signal that a process received; one that only others received counts as SIGTERM."""
    if ctx.device_context.world_size == 1:
        return signals.name
    signalled = torch.tensor(float(signals.name is not None), device=ctx.device_context.device)
    if parallel.all_reduce_sum(signalled, ctx.device_context).item():
        return signals.name or "SIGTERM"
    return None


def _train_step(ctx: TrainContext, prefetcher: Prefetcher) -> StepMetrics:
    """Take the next step and count it."""
    start = time.perf_counter()
    counters = ctx.counters
    position = counters.next_position(counters.position, ctx.rows)
    following = counters.next_position(position + ctx.rows, ctx.rows)
    result = _train_step_within_memory(ctx, _load_batch(ctx, prefetcher, position, following))
    counters.step += 1
    counters.tokens += result.targets
    counters.position = position + ctx.rows
    ctx.loop.steps += 1
    ctx.update_seconds()
    return StepMetrics(
        step=counters.step,
        tokens=counters.tokens,
        position=position,
        rows=ctx.rows,
        targets=result.targets,
        loss=result.loss,
        lr=float(ctx.state.optimizer.param_groups[0]["lr"]),
        grad_norm=result.grad_norm,
        seconds=time.perf_counter() - start,
        applied=result.applied,
        parts=result.parts,
    )


def _load_batch(ctx: TrainContext, prefetcher: Prefetcher, position: int, following: int) -> BatchLike:
    try:
        return prefetcher.get(position, ctx.rows, following)
    except Failure:
        if ctx.device_context.world_size == 1:  # saving needs all processes, and the others wait for this one's step
            periodic.save_final(ctx)
        raise


def _train_step_within_memory(ctx: TrainContext, batch: BatchLike) -> StepResult:
    """Take a step; if it runs out of memory, repeat it in smaller micro-batches with the same random numbers."""
    if ctx.before_step is not None:
        ctx.before_step(ctx.counters.step)
    total_steps = ctx.limits.schedule_steps(ctx.counters)
    lr_factor = optim.lr_factor(ctx.counters.step, total_steps, ctx.optim.schedule)
    while True:
        rng_state = parallel.rng_state()
        try:
            return train_step(ctx.state, ctx.module, batch, lr_factor, ctx.optim, ctx.device_context)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or ctx.device_context.world_size > 1:
                raise
            before = ctx.counters.micro_batch or batch.n_rows
            micro_batch = halve(before, batch.n_rows)
        # Outside the except clause, so that the traceback no longer holds the activations.
        ctx.state.optimizer.zero_grad(set_to_none=True)
        parallel.set_rng_state(rng_state)
        if ctx.device_context.device.type == "cuda":
            torch.cuda.empty_cache()
        ctx.counters.micro_batch = micro_batch
        text = f"out of memory with micro-batches of {before} rows; continuing with {micro_batch}"
        ctx.log.event(ctx.counters.step, "out-of-memory", text)


def _check_step(ctx: TrainContext, metrics: StepMetrics) -> bool:
    """Act on a non-finite or spiking loss; return False if the step was undone by a rollback."""
    counters = ctx.counters
    action = spike_guard.check_step(counters, metrics.position, metrics.loss, metrics.applied, ctx.train.guard)
    if action is spike_guard.Action.CONTINUE:
        return True
    details = _step_details(ctx, metrics)
    if action is spike_guard.Action.SKIP:
        # With fp16, gradients that overflow while the loss is finite are how the loss scale is found.
        if ctx.state.scaler is None or not math.isfinite(metrics.loss):
            ctx.log.event(counters.step, "not-finite", f"update skipped: {details}")
        return True
    if action is spike_guard.Action.ROLL_BACK:
        _roll_back(ctx, metrics, details)
        return False
    ctx.log.event(counters.step, "failed", f"{'spike' if metrics.applied else 'not finite'}: {details}")
    raise TrainingError(
        f"the loss spiked again after {counters.rollbacks} rollbacks"
        if metrics.applied
        else f"loss or gradient was not finite in {counters.nonfinite_steps} steps in a row",
        where=f"step {counters.step}",
        found=details,
        fix="Lower optim.lr or lengthen its warm-up; look at the documents named. Earlier checkpoints are intact.",
    )


def _step_details(ctx: TrainContext, metrics: StepMetrics) -> str:
    names = list(ctx.batches.sources(metrics.position, metrics.rows))
    more = f" and {len(names) - _MAX_DOCUMENTS} more" if len(names) > _MAX_DOCUMENTS else ""
    documents = ", ".join(names[:_MAX_DOCUMENTS]) + more
    return f"loss {metrics.loss:.4g}, gradient norm {metrics.grad_norm:.4g}; documents: {documents}"


def _roll_back(ctx: TrainContext, metrics: StepMetrics, details: str) -> None:
    """Return to the last checkpoint before the spike, and skip the rows since the spike began."""
    old = ctx.counters
    window = (old.spike_position, metrics.position + metrics.rows - old.spike_position)
    ctx.checkpoints.wait()
    checkpoint = ctx.checkpoints.find_latest(ctx.device_context, before_spike=True)
    if checkpoint is None:
        ctx.restart()
        ctx.state.counters = Counters(micro_batch=old.micro_batch)
    else:
        restore(checkpoint, ctx.state, ctx.device_context)
    counters = ctx.counters
    counters.skipped, counters.rollbacks = [*old.skipped, window], old.rollbacks + 1
    counters.seconds, counters.setup_seconds = old.seconds, old.setup_seconds
    ctx.loop.checkpoint_pending = False
    # Settings that were changed after that step hold from it on.
    changes = ctx.compatibility.pop("changed_settings", [])
    if changes and counters.step:
        ctx.compatibility["changed_settings"] = [{**c, "step": min(c["step"], counters.step)} for c in changes]
    ctx.log.truncate(counters.step)
    target = f"checkpoint {checkpoint.name}" if checkpoint else "the start, since there is no checkpoint yet"
    text = f"loss spike: rolled back to {target}, skipping rows {window[0]} to {sum(window) - 1}: {details}"
    ctx.log.event(metrics.step, "rollback", text)
