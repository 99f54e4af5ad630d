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
from firstlight.train import due, guard
from firstlight.train.checkpoint import restore
from firstlight.train.feed import Feed
from firstlight.train.job import FitResult, Job
from firstlight.train.micro_batch import halved, is_out_of_memory
from firstlight.train.signals import StopSignals
from firstlight.train.state import Counters
from firstlight.train.step import Outcome, train_step
from firstlight.types import Rows, StepReport

_INTERRUPTIONS = ("SIGTERM", "SIGINT", "stop_after")
_NAMED = 5  # documents of a batch that a message names


def fit(job: Job) -> FitResult:
    """Train until a limit or a signal; save, so that the same call goes on where this one ended.

    Raises:
        ConfigError: only convergence ends the run, and there is no valid text.
        TrainingError: too many steps not finite, too many rollbacks, or out of memory with one row.
        StorageError: the last checkpoint could not be written.
    """
    if job.limits.named == "convergence" and job.measure is None:
        raise ConfigError("there is no valid text to converge on", where="train.convergence", fix="Set train.steps.")
    train_loss, valid = math.nan, None
    job.begin()
    job.module.train()
    gc.freeze()  # else the collector looks through all that was ever imported, again and again, between the steps
    try:
        with (
            StopSignals() as signals,
            Feed(job.read) as feed,
            progress.task("train", job.limits.steps, "steps") as task,
        ):
            task.advance(job.counters.step)
            while (stopped_by := _stop(job, signals)) is None:
                before, text = job.counters.step, ""
                report, targets = _take(job, feed)
                if targets == 0 or _judged(job, report):
                    train_loss = report.loss
                    valid = due.after_step(job, report, targets) or valid
                    text = due.line(job, report, targets)
                task.advance(job.counters.step - before, text)
            finished = stopped_by not in _INTERRUPTIONS
            if finished:
                valid = due.at_end(job, valid)
            job.tell_time()
            due.save_last(job)
    finally:
        gc.unfreeze()
        job.log.close()
        job.checkpoints.wait()
    counters = job.counters
    return FitResult(stopped_by, finished, counters.step, counters.tokens, counters.seconds, train_loss, valid)


def _stop(job: Job, signals: StopSignals) -> str | None:
    """Return why the run ends here; processes agree on it, since a signal reaches them at different steps."""
    reached = job.limits.reached(job.counters, job.train)
    if reached is None and job.train.stop_after and job.counters.step >= job.train.stop_after:
        return "stop_after"
    if job.place.world_size == 1:
        return signals.name or reached
    vote = torch.tensor(float(signals.name is not None), device=job.place.device)
    if parallel.all_sum(vote, job.place).item():
        return signals.name or "SIGTERM"
    return reached


def _take(job: Job, feed: Feed) -> tuple[StepReport, int]:
    """Take the next step and count it; return its report, and its targets over all processes."""
    started = time.perf_counter()
    counters = job.counters
    position = counters.skip_to(counters.position, job.rows)
    following = counters.skip_to(position + job.rows, job.rows)
    outcome = _step(job, feed.take(position, job.rows, following))
    counters.step += 1
    counters.tokens += outcome.targets
    counters.position = position + job.rows
    job.course.steps += 1
    job.tell_time()
    seconds = time.perf_counter() - started
    lr = float(job.state.optimizer.param_groups[0]["lr"])
    report = StepReport(
        counters.step, counters.tokens, position, job.rows, outcome.loss, lr, outcome.grad_norm, seconds,
        outcome.applied,
    )  # fmt: skip
    return report, outcome.targets


def _step(job: Job, batch: Rows) -> Outcome:
    """Take one step; on an out-of-memory take it again in smaller pieces, with the same random numbers."""
    if job.prepare is not None:
        job.prepare(job.counters.step)
    total = job.limits.schedule_total(job.counters)
    factor = optim.factor(job.counters.step, total, job.optim.schedule)
    while True:
        random = parallel.rng_state()
        try:
            return train_step(job.state, job.module, batch, factor, job.optim, job.place)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or job.place.world_size > 1:
                raise
            before = job.counters.micro_rows or batch.n_rows
            micro = halved(before, batch.n_rows)
        # Outside the except clause, so that the traceback no longer holds the activations.
        job.state.optimizer.zero_grad(set_to_none=True)
        parallel.set_rng_state(random)
        if job.place.device.type == "cuda":
            torch.cuda.empty_cache()
        job.counters.micro_rows = micro
        text = f"out of memory with {before} rows a forward pass; going on with {micro}"
        job.log.event(job.counters.step, "out-of-memory", text)


def _judged(job: Job, report: StepReport) -> bool:
    """Act on the guard's verdict; False where the step was undone by a rollback."""
    counters = job.counters
    verdict = guard.judge(counters, report.position, report.loss, report.applied, job.train.guard)
    if verdict is guard.Verdict.GO_ON:
        return True
    figures = _figures(job, report)
    if verdict is guard.Verdict.SKIPPED:
        # The loss scale of fp16 is found by steps whose gradient, not loss, overflows: no news.
        if job.state.scaler is None or not math.isfinite(report.loss):
            job.log.event(counters.step, "not-finite", f"update left out: {figures}")
        return True
    if verdict is guard.Verdict.ROLL_BACK:
        _roll_back(job, report, figures)
        return False
    job.log.event(counters.step, "failed", f"{'spike' if report.applied else 'not finite'}: {figures}")
    raise TrainingError(
        f"the loss spiked again after {counters.rollbacks} rollbacks"
        if report.applied
        else f"loss or gradient was not finite in {counters.not_finite} steps in a row",
        where=f"step {counters.step}", found=figures,
        fix="Lower optim.lr or lengthen its warm-up; look at the documents named. Checkpoints before it are whole.",
    )  # fmt: skip


def _figures(job: Job, report: StepReport) -> str:
    names = list(job.objective.sources(report.position, report.rows))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = ", ".join(names[:_NAMED]) + more
    return f"loss {report.loss:.4g}, gradient norm {report.grad_norm:.4g}; documents: {shown}"


def _roll_back(job: Job, report: StepReport, figures: str) -> None:
    """Return to the last good checkpoint and leave out the rows since the spike began."""
    old = job.counters
    window = (old.spike_position, report.position + report.rows - old.spike_position)
    job.checkpoints.wait()
    good = job.checkpoints.newest_valid(job.place, calm=True)
    if good is None:
        job.restart()
        job.state.counters = Counters(micro_rows=old.micro_rows)
    else:
        restore(good, job.state, job.place)
    counters = job.counters
    counters.skipped, counters.rollbacks = [*old.skipped, window], old.rollbacks + 1
    counters.seconds, counters.outside_seconds = old.seconds, old.outside_seconds
    job.course.owes_save = False
    job.log.cut_back(counters.step)
    where = f"checkpoint {good.name}" if good else "the start, since there is no checkpoint yet"
    text = f"loss spike: back to {where}, leaving out rows {window[0]} to {sum(window) - 1}: {figures}"
    job.log.event(report.step, "rollback", text)
