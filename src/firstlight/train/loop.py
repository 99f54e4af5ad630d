"""The one training loop: a step, the guard's verdict, then what is due.

The loop knows only steps and what is due. What a batch is and what its loss means is the
objective's business; what is written where is the log's and the checkpoints'.
"""

import gc
import math
import time

import torch

from firstlight import optim, parallel, progress
from firstlight.errors import ConfigError, TrainingError
from firstlight.train import periodic, spike_guard
from firstlight.train.checkpoint import restore
from firstlight.train.context import FitResult, TrainContext
from firstlight.train.micro_batch import halve, is_out_of_memory
from firstlight.train.prefetch import Prefetcher
from firstlight.train.signals import StopSignals
from firstlight.train.state import Counters
from firstlight.train.step import StepResult, train_step
from firstlight.types import BatchLike, StepMetrics

_INTERRUPTIONS = ("SIGTERM", "SIGINT", "stop_after")
_NAMED = 5  # documents of a batch that a message names


def fit(ctx: TrainContext) -> FitResult:
    """Train until a limit or a signal; save, so that the same call goes on where this one ended.

    Raises:
        ConfigError: only convergence ends the run, and there is no valid text.
        TrainingError: too many steps not finite, too many rollbacks, or out of memory with one row.
        StorageError: the last checkpoint could not be written.
    """
    if ctx.limits.named == "convergence" and ctx.evaluate is None:
        raise ConfigError("there is no valid text to converge on", where="train.convergence", fix="Set train.steps.")
    train_loss, valid = math.nan, None
    ctx.begin()
    ctx.module.train()
    gc.freeze()  # else the collector looks through all that was ever imported, again and again, between the steps
    try:
        with (
            StopSignals() as signals,
            Prefetcher(ctx.read) as feed,
            progress.task("train", ctx.limits.steps, "steps") as task,
        ):
            task.advance(ctx.counters.step)
            while (stopped_by := _stop(ctx, signals)) is None:
                before, text = ctx.counters.step, ""
                report, targets = _take(ctx, feed)
                if targets == 0 or _judged(ctx, report):
                    train_loss = report.loss
                    valid = periodic.after_step(ctx, report, targets) or valid
                    text = periodic.line(ctx, report, targets)
                task.advance(ctx.counters.step - before, text)
            finished = stopped_by not in _INTERRUPTIONS
            if finished:
                valid = periodic.at_end(ctx, valid)
            ctx.update_seconds()
            periodic.save_last(ctx)
    finally:
        gc.unfreeze()
        ctx.log.close()
        ctx.checkpoints.wait()
    counters = ctx.counters
    best = ctx.loop.best[1] if ctx.loop.best and ctx.loop.best[0] == counters.best_step else None
    return FitResult(stopped_by, finished, counters.step, counters.tokens, counters.seconds, train_loss, valid, best)


def _stop(ctx: TrainContext, signals: StopSignals) -> str | None:
    """Return why the run ends here; processes agree on it, since a signal reaches them at different steps."""
    reached = ctx.limits.reached(ctx.counters, ctx.train)
    if reached is None and ctx.train.stop_after and ctx.counters.step >= ctx.train.stop_after:
        return "stop_after"
    if ctx.device_context.world_size == 1:
        return signals.name or reached
    vote = torch.tensor(float(signals.name is not None), device=ctx.device_context.device)
    if parallel.all_reduce_sum(vote, ctx.device_context).item():
        return signals.name or "SIGTERM"
    return reached


def _take(ctx: TrainContext, feed: Prefetcher) -> tuple[StepMetrics, int]:
    """Take the next step and count it; return its report, and its targets over all processes."""
    started = time.perf_counter()
    counters = ctx.counters
    position = counters.next_position(counters.position, ctx.rows)
    following = counters.next_position(position + ctx.rows, ctx.rows)
    outcome = _step(ctx, feed.take(position, ctx.rows, following))
    counters.step += 1
    counters.tokens += outcome.targets
    counters.position = position + ctx.rows
    ctx.loop.steps += 1
    ctx.update_seconds()
    seconds = time.perf_counter() - started
    lr = float(ctx.state.optimizer.param_groups[0]["lr"])
    report = StepMetrics(
        counters.step,
        counters.tokens,
        position,
        ctx.rows,
        outcome.loss,
        lr,
        outcome.grad_norm,
        seconds,
        outcome.applied,
    )
    return report, outcome.targets


def _step(ctx: TrainContext, batch: BatchLike) -> StepResult:
    """Take one step; on an out-of-memory take it again in smaller pieces, with the same random numbers."""
    if ctx.before_step is not None:
        ctx.before_step(ctx.counters.step)
    total = ctx.limits.schedule_steps(ctx.counters)
    factor = optim.lr_factor(ctx.counters.step, total, ctx.optim.schedule)
    while True:
        random = parallel.rng_state()
        try:
            return train_step(ctx.state, ctx.module, batch, factor, ctx.optim, ctx.device_context)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or ctx.device_context.world_size > 1:
                raise
            before = ctx.counters.micro_batch or batch.n_rows
            micro = halve(before, batch.n_rows)
        # Outside the except clause, so that the traceback no longer holds the activations.
        ctx.state.optimizer.zero_grad(set_to_none=True)
        parallel.set_rng_state(random)
        if ctx.device_context.device.type == "cuda":
            torch.cuda.empty_cache()
        ctx.counters.micro_batch = micro
        text = f"out of memory with {before} rows a forward pass; going on with {micro}"
        ctx.log.event(ctx.counters.step, "out-of-memory", text)


def _judged(ctx: TrainContext, report: StepMetrics) -> bool:
    """Act on the guard's verdict; False where the step was undone by a rollback."""
    counters = ctx.counters
    verdict = spike_guard.judge(counters, report.position, report.loss, report.applied, ctx.train.guard)
    if verdict is spike_guard.Verdict.GO_ON:
        return True
    figures = _figures(ctx, report)
    if verdict is spike_guard.Verdict.SKIPPED:
        # The loss scale of fp16 is found by steps whose gradient, not loss, overflows: no news.
        if ctx.state.scaler is None or not math.isfinite(report.loss):
            ctx.log.event(counters.step, "not-finite", f"update left out: {figures}")
        return True
    if verdict is spike_guard.Verdict.ROLL_BACK:
        _roll_back(ctx, report, figures)
        return False
    ctx.log.event(counters.step, "failed", f"{'spike' if report.applied else 'not finite'}: {figures}")
    raise TrainingError(
        f"the loss spiked again after {counters.rollbacks} rollbacks"
        if report.applied
        else f"loss or gradient was not finite in {counters.nonfinite_steps} steps in a row",
        where=f"step {counters.step}",
        found=figures,
        fix="Lower optim.lr or lengthen its warm-up; look at the documents named. Checkpoints before it are whole.",
    )


def _figures(ctx: TrainContext, report: StepMetrics) -> str:
    names = list(ctx.batches.sources(report.position, report.rows))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = ", ".join(names[:_NAMED]) + more
    return f"loss {report.loss:.4g}, gradient norm {report.grad_norm:.4g}; documents: {shown}"


def _roll_back(ctx: TrainContext, report: StepMetrics, figures: str) -> None:
    """Return to the last good checkpoint and leave out the rows since the spike began."""
    old = ctx.counters
    window = (old.spike_position, report.position + report.rows - old.spike_position)
    ctx.checkpoints.wait()
    good = ctx.checkpoints.find_latest(ctx.device_context, calm=True)
    if good is None:
        ctx.restart()
        ctx.state.counters = Counters(micro_batch=old.micro_batch)
    else:
        restore(good, ctx.state, ctx.device_context)
    counters = ctx.counters
    counters.skipped, counters.rollbacks = [*old.skipped, window], old.rollbacks + 1
    counters.seconds, counters.setup_seconds = old.seconds, old.setup_seconds
    ctx.loop.checkpoint_pending = False
    ctx.log.truncate(counters.step)
    where = f"checkpoint {good.name}" if good else "the start, since there is no checkpoint yet"
    text = f"loss spike: back to {where}, leaving out rows {window[0]} to {sum(window) - 1}: {figures}"
    ctx.log.event(report.step, "rollback", text)
