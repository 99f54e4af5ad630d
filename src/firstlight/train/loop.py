"""The one training loop: a step, the guard's verdict, then what is due.

The loop knows only steps and what is due. What a batch is and what its loss means is the
objective's business; what is written where is the log's and the checkpoints'.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from firstlight import optim, parallel, progress
from firstlight.errors import TrainingError
from firstlight.optim import OptimSettings
from firstlight.store import Windows
from firstlight.train import guard
from firstlight.train.checkpoint import Checkpoints, restore, snapshot
from firstlight.train.feed import Feed
from firstlight.train.log import RunLog
from firstlight.train.micro_batch import halved, is_out_of_memory
from firstlight.train.settings import TrainSettings
from firstlight.train.signals import StopSignals
from firstlight.train.state import Counters, TrainState
from firstlight.train.step import Outcome, train_step
from firstlight.train.stop import Limits
from firstlight.train.validate import ValidResult, validate
from firstlight.types import Batch


_INTERRUPTIONS = ("SIGTERM", "SIGINT", "stop_after")


class Objective(Protocol):
    """Where batches come from; the loss is the module's ``forward``."""

    def batch(self, position: int, rows: int) -> Batch:
        """Return rows ``position`` to ``position + rows``: a pure function."""
        ...

    def sources(self, position: int, rows: int) -> Sequence[str]:
        """Name the documents in those rows."""
        ...


@dataclass(slots=True)
class Job:
    """Everything that one run of the loop needs, put together by a stage.

    Attributes:
        run: the run directory.
        state: what changes.
        module: the loss module, compiled and wrapped for the place.
        objective: batches by position.
        rows: rows of one update, all processes together.
        windows: the valid split, or None.
        byte_lengths: bytes of text an id stands for (V,), or None.
        contract: hashes that every checkpoint carries.
        sample: writes a text with the weights as they are, or None.
        restart: puts the weights and the optimiser back to the start of the run.
        flops_per_token: model FLOPs of one token, forward and backward.
        ceiling: FLOP/s that the place can reach, or None where unknown.
        process_start: ``time.perf_counter()`` when the process began.
    """

    run: Path
    state: TrainState
    module: nn.Module
    objective: Objective
    rows: int
    windows: Windows | None
    byte_lengths: np.ndarray | None
    optim: OptimSettings
    train: TrainSettings
    place: parallel.Place
    limits: Limits
    checkpoints: Checkpoints
    log: RunLog
    contract: dict[str, Any]
    sample: Callable[[], str] | None
    restart: Callable[[], None]
    flops_per_token: float
    ceiling: float | None
    process_start: float
    _seconds_before: float = field(default=0.0, init=False)

    @property
    def counters(self) -> Counters:
        """The counters of the state, which a rollback replaces."""
        return self.state.counters


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a run of the loop ended.

    Attributes:
        stopped_by: "steps", "tokens", "epochs", "auto", "minutes", "convergence"; or "stop_after" or a
            signal's name, after which the run is not finished.
        valid: the last evaluation, or None.
    """

    stopped_by: str
    finished: bool
    step: int
    tokens: int
    seconds: float
    train_loss: float
    valid: ValidResult | None


def fit(job: Job) -> FitResult:
    """Train until a limit or a signal; save, so that the same call goes on where this one ended.

    Raises:
        TrainingError: too many steps not finite, too many rollbacks, or out of memory with one row.
        StorageError: the last checkpoint could not be written.
    """
    job._seconds_before = job.counters.seconds
    last_loss, valid = math.nan, None
    own = job.rows // job.place.world_size
    read = lambda position, rows: job.objective.batch(position + job.place.rank * own, own)  # noqa: E731, ARG005
    with StopSignals() as signals, Feed(read) as feed, progress.task("train", job.limits.steps, "steps") as task:
        task.advance(job.counters.step)
        try:
            while (stopped_by := _stop(job, signals)) is None:
                started = time.perf_counter()
                position = job.counters.skip_to(job.counters.position, job.rows)
                following = job.counters.skip_to(position + job.rows, job.rows)
                outcome = _step(job, feed.take(position, job.rows, following))
                _advance(job, position, outcome)
                if _judged(job, position, outcome):
                    last_loss = outcome.loss
                    valid = _due(job, outcome, time.perf_counter() - started, task) or valid
            finished = stopped_by not in _INTERRUPTIONS
            if finished:
                valid = _finish(job, valid)
            _save(job, best=False)
            job.checkpoints.wait(must=True)
        finally:
            job.checkpoints.wait()
            job.log.close()
    return FitResult(
        stopped_by, finished, job.counters.step, job.counters.tokens, job.counters.seconds, last_loss, valid
    )


def _stop(job: Job, signals: StopSignals) -> str | None:
    """Return why the run ends here; processes agree on it, since clocks and signals differ."""
    reached = job.limits.reached(job.counters, job.train)
    if reached is None and job.train.stop_after and job.counters.step >= job.train.stop_after:
        return "stop_after"
    if job.place.world_size == 1:
        return signals.name or reached
    votes = torch.tensor([signals.name is not None, reached is not None], dtype=torch.float64, device=job.place.device)
    stopped, done = parallel.all_sum(votes, job.place).tolist()
    if stopped:
        return signals.name or "SIGTERM"
    return (reached or job.limits.named) if done else None


def _step(job: Job, batch: Batch) -> Outcome:
    """Take one step; on an out-of-memory take it again in smaller pieces, with the same random numbers."""
    total = job.limits.schedule_total(job.counters)
    factor = optim.factor(job.counters.step, total, job.optim.schedule)
    while True:
        random = parallel.rng_state() if job.place.device.type == "cuda" else None
        try:
            return train_step(job.state, job.module, batch, factor, job.optim, job.place)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or job.place.world_size > 1:
                raise
            micro = halved(job.counters.micro_rows or batch.inputs.shape[0], batch.inputs.shape[0])
        # Outside the except clause, so that the traceback no longer holds the activations.
        job.state.optimizer.zero_grad(set_to_none=True)
        if random is not None:
            parallel.set_rng_state(random)
            torch.cuda.empty_cache()
        job.counters.micro_rows = micro
        job.log.event(job.counters.step, "out-of-memory", f"going on with {micro} rows a forward pass", warn=False)


def _advance(job: Job, position: int, outcome: Outcome) -> None:
    counters = job.counters
    counters.step += 1
    counters.tokens += outcome.targets
    counters.position = position + job.rows
    counters.seconds = job._seconds_before + time.perf_counter() - job.process_start


def _judged(job: Job, position: int, outcome: Outcome) -> bool:
    """Act on the guard's verdict; False where the step was undone by a rollback."""
    counters = job.counters
    verdict = guard.judge(counters, outcome.loss, outcome.applied, job.train.guard)
    if verdict is guard.Verdict.GO_ON:
        return True
    names = ", ".join(job.objective.sources(position, job.rows)[:5])
    figures = f"loss {outcome.loss:.4g}, gradient norm {outcome.grad_norm:.4g}; documents: {names}"
    if verdict is guard.Verdict.SKIPPED:
        if job.state.scaler is None:
            job.log.event(counters.step, "not-finite", f"update left out: {figures}")
        return True
    if verdict is guard.Verdict.FAIL:
        finite = outcome.applied
        job.log.event(counters.step, "failed", f"{'spike' if finite else 'not finite'}: {figures}")
        raise TrainingError(
            f"the loss spiked again after {counters.rollbacks} rollbacks"
            if finite
            else f"loss or gradient was not finite in {counters.not_finite} steps in a row",
            where=f"step {counters.step}",
            found=figures,
            fix="Lower optim.lr or lengthen its warm-up; look at the documents named. Checkpoints before it are whole.",
        )
    _roll_back(job, position, figures)
    return False


def _roll_back(job: Job, position: int, figures: str) -> None:
    """Return to the last good checkpoint and leave out the rows since the spike began."""
    old = job.counters
    first = position - (old.spiking - 1) * job.rows
    window = (max(first, 0), position + job.rows - max(first, 0))
    step, skipped, rollbacks = old.step, [*old.skipped, window], old.rollbacks + 1
    job.checkpoints.wait()
    parallel.barrier(job.place)
    good = job.checkpoints.newest_valid()
    if good is None:
        job.restart()
        job.state.counters = Counters(micro_rows=old.micro_rows)
    else:
        restore(good, job.state, job.place)
    counters = job.counters
    counters.skipped, counters.rollbacks = skipped, rollbacks
    counters.seconds = old.seconds
    job.log.cut_back(counters.step)
    where = f"checkpoint {good.name}" if good else "the start, since there is no checkpoint yet"
    job.log.event(
        step, "rollback", f"loss spike: back to {where}, leaving out rows {window[0]} to {sum(window)}: {figures}"
    )


def _due(job: Job, outcome: Outcome, seconds: float, task: progress.Task) -> ValidResult | None:
    """Log, evaluate, sample and save where their time has come."""
    step, every = job.counters.step, job.train
    rate = outcome.targets / seconds
    mfu = rate * job.flops_per_token / job.ceiling if job.ceiling else None
    valid = None
    if every.eval_every and step % every.eval_every == 0:
        valid = _evaluate(job)
    if step % every.log_every == 0 or step == 1 or not outcome.applied:
        lr = max(group["lr"] for group in job.state.optimizer.param_groups)
        figures: dict[str, Any] = {
            "step": step, "tokens": job.counters.tokens, "seconds": round(job.counters.seconds, 3), "loss": outcome.loss,
            "lr": lr, "grad_norm": outcome.grad_norm, "tokens_per_second": round(rate, 1),
            "memory_bytes": parallel.memory(job.place),
        }  # fmt: skip
        job.log.metrics(**figures, **({} if mfu is None else {"mfu": round(mfu, 4)}))
    task.advance(1, _line(job, outcome, rate, mfu))
    if every.sample_every and step % every.sample_every == 0:
        _sample(job)
    good = job.counters.spiking == 0 and outcome.applied
    is_best = valid is not None and job.counters.best_step == step
    if good and (is_best or (every.checkpoint_every and step % every.checkpoint_every == 0)):
        _save(job, best=is_best)
    return valid


def _line(job: Job, outcome: Outcome, rate: float, mfu: float | None) -> str:
    parts = [f"loss {outcome.loss:.4f}"]
    if job.counters.best_loss is not None:
        parts.append(f"best valid {job.counters.best_loss:.4f}")
    parts.append(f"{rate:,.0f} tokens/s")
    if mfu is not None:
        parts.append(f"MFU {100 * mfu:.0f} %")
    total = job.limits.schedule_total(job.counters)
    if total and job.counters.step:
        here = time.perf_counter() - job.process_start
        done = job.counters.step / total
        left = (job.counters.seconds if here > 0 else 0) * (1 - done) / done
        parts.append(f"ETA {int(left // 60)}:{int(left % 60):02d}")
    return " · ".join(parts)


def _evaluate(job: Job) -> ValidResult | None:
    if job.windows is None or job.windows.n_windows == 0:
        return None
    own = job.counters.micro_rows or job.rows // job.place.world_size
    result = validate(job.state.model, job.windows, job.byte_lengths, job.place, max(own, 1))
    counters = job.counters
    gain = math.inf if counters.best_loss is None else counters.best_loss - result.loss
    counters.stale = 0 if gain > job.train.convergence.threshold else counters.stale + 1
    if gain > 0:
        counters.best_loss, counters.best_step = result.loss, counters.step
    figures: dict[str, Any] = {"valid_loss": result.loss, "perplexity": result.perplexity}
    if result.bits_per_byte is not None:
        figures["bits_per_byte"] = result.bits_per_byte
    if job.state.average is not None:
        with job.state.average.swapped():
            figures["valid_loss_average"] = validate(
                job.state.model, job.windows, job.byte_lengths, job.place, max(own, 1)
            ).loss
    job.log.metrics(step=counters.step, tokens=counters.tokens, seconds=round(counters.seconds, 3), **figures)
    return result


def _sample(job: Job) -> None:
    if job.sample is not None and parallel.is_main(job.place):
        job.log.sample(step=job.counters.step, prompt=job.train.sample_prompt, text=job.sample())


def _save(job: Job, *, best: bool) -> None:
    """Save this step unless it is saved already."""
    if job.checkpoints.pointer("latest") == f"step-{job.counters.step:08d}" and not best:
        return
    snap = snapshot(job.state, job.place, job.contract)
    if parallel.is_main(job.place):
        job.checkpoints.save(snap, best=best)


def _finish(job: Job, valid: ValidResult | None) -> ValidResult | None:
    """Evaluate and sample at the end, unless the last step just did."""
    step, every = job.counters.step, job.train
    if valid is None or not every.eval_every or step % every.eval_every:
        valid = _evaluate(job)
        if job.counters.best_step == step:
            _save(job, best=True)
            job.checkpoints.wait(must=True)
    if not every.sample_every or step % every.sample_every:
        _sample(job)
    return valid
