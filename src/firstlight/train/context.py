"""The inputs of the training loop (TrainContext), its state between steps, and its result."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from firstlight import parallel
from firstlight.optim import OptimizerSettings
from firstlight.train.checkpoint import CheckpointManager
from firstlight.train.limits import Limits
from firstlight.train.live_report import LiveReport
from firstlight.train.log import RunLog
from firstlight.train.settings import TrainSettings
from firstlight.train.state import Counters, TrainState
from firstlight.types import BatchLike


class BatchSource(Protocol):
    """Batches by position in the order of the data."""

    def batch(self, position: int, rows: int) -> BatchLike:
        """Return rows ``position`` to ``position + rows``; the same for the same arguments."""
        ...

    def sources(self, position: int, rows: int) -> Sequence[str]:
        """Return the names of the documents in those rows."""
        ...


class EvaluationResult(Protocol):
    """The result of a validation."""

    @property
    def loss(self) -> float:
        """The validation loss: mean over targets in nats."""
        ...

    @property
    def criterion(self) -> float:
        """The value whose minimum is the best checkpoint."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Return the metrics to log besides the loss, by name."""
        ...


@dataclass(slots=True)
class LoopState:
    """State of the loop in this process that checkpoints do not need.

    Attributes:
        seconds_before: wall time of earlier processes of this run.
        start_time: ``time.perf_counter()`` when the loop started.
        steps: steps taken in this process, those undone by a rollback included.
        checkpoint_pending: a checkpoint was due during a loss spike, and is written after it.
        evaluation_unsaved: there was an evaluation after the last checkpoint.
        best: step and result of the best evaluation in this process.
        waiting: how long its threads wait for a processor; None where that says nothing.
        train_loss: of the last step in this process, or None before the first one.
        shown_loss: the same as the terminal shows it.
        sample_notices: notices of earlier samples, which are not repeated.
        said_ceiling_is_low: whether an event has said that the peak FLOP/s were measured too low.
    """

    seconds_before: float = 0.0
    start_time: float = 0.0
    steps: int = 0
    checkpoint_pending: bool = False
    evaluation_unsaved: bool = False
    best: tuple[int, EvaluationResult] | None = None
    waiting: parallel.WaitingTime | None = None
    train_loss: float | None = None
    shown_loss: float | None = None
    sample_notices: set[str] = field(default_factory=set)
    said_ceiling_is_low: bool = False


@dataclass(slots=True)
class TrainContext:
    """Everything that the training loop needs.

    Attributes:
        run: the run directory.
        state: model, optimizer, counters: all that changes in training.
        module: the loss module, compiled and wrapped in DDP.
        batches: batches by position.
        rows: rows of one update, all processes together.
        evaluate: evaluates the current weights, given the rows per forward pass; None without validation data.
        compatibility: hashes that every checkpoint carries, of what a resumed run must have in common with it.
        sample: generates a sample text from the current weights, or None.
        restart: resets weights and optimizer to the start of the run.
        flops_per_token: model FLOPs of one token, forward and backward.
        peak_flops: peak FLOP/s of one process's device, the same for the whole run; None if unknown.
        process_start: ``time.perf_counter()`` when the process started.
        target_unit: what a target is, tokens or rows of a task.
        criterion: name of what selects the best checkpoint: ``loss``, or a metric, whose negative is the evaluations'
            ``criterion``.
        before_step: called before each step with the number of completed steps, to unfreeze layers for instance.
        starts_from_model: whether the weights at step 0 are those of a trained model: then step 0 is saved, and may be
            the best one.
        has_new_heads: whether it has heads that are random at step 0, which then is never the best one.
        report: the report that evaluations rewrite; None on processes other than the first.
        shows_samples: whether samples are text, which people can read while the run trains.
    """

    run: Path
    state: TrainState
    module: nn.Module
    batches: BatchSource
    rows: int
    evaluate: Callable[[int], EvaluationResult] | None
    optim: OptimizerSettings
    train: TrainSettings
    device_context: parallel.DeviceContext
    limits: Limits
    checkpoints: CheckpointManager
    log: RunLog
    compatibility: dict[str, Any]
    sample: Callable[[], str] | None
    restart: Callable[[], None]
    flops_per_token: float
    peak_flops: float | None
    process_start: float
    target_unit: str = "tokens"
    criterion: str = "loss"
    before_step: Callable[[int], None] | None = None
    starts_from_model: bool = False
    has_new_heads: bool = False
    report: LiveReport | None = None
    shows_samples: bool = True
    loop: LoopState = field(default_factory=LoopState, init=False)

    @property
    def counters(self) -> Counters:
        """The counters of the state, which a rollback replaces."""
        return self.state.counters

    def load_batch(self, position: int, rows: int) -> BatchLike:
        """Return this process's part of the ``rows`` rows at ``position``."""
        local_rows = rows // self.device_context.world_size
        return self.batches.batch(position + self.device_context.rank * local_rows, local_rows)

    def start_clock(self) -> None:
        """Start measuring the time of the loop."""
        device_context = self.device_context
        # With more threads than cores, or with the work on a GPU, waiting says nothing about other programs.
        threads = device_context.threads * device_context.local_world_size
        watches = device_context.device.type == "cpu" and threads <= parallel.usable_cores()
        self.loop = LoopState(
            self.counters.seconds, time.perf_counter(), waiting=parallel.WaitingTime() if watches else None
        )
        self.update_seconds()
        self.counters.setup_seconds += self.counters.seconds - self.loop.seconds_before

    def restart_clock(self) -> None:
        """Count all time before the first step as set-up."""
        self.update_seconds()
        self.counters.setup_seconds = self.counters.seconds
        self.loop.start_time = time.perf_counter()

    def update_seconds(self) -> None:
        """Update the counters' seconds; processes agree on them if the schedule depends on time."""
        seconds = self.loop.seconds_before + time.perf_counter() - self.process_start
        shared = seconds if self.limits.minutes is None else parallel.broadcast_object(seconds, self.device_context)
        self.counters.seconds = shared


@dataclass(frozen=True, slots=True)
class FitResult:
    """The result of ``fit``.

    Attributes:
        stopped_by: "steps", "tokens", "epochs", "auto", "minutes" or "convergence"; or "stop_after" or the name of a
            signal, after which the run is not finished.
        train_loss: of the last step.
        valid: the last validation, or None.
        best: the evaluation of the best checkpoint, or None if it was made before a resume.
        criterion: name of what selects the best checkpoint, as in TrainContext.
        valid_step: step of the last validation, or None.
        best_step: step of the best checkpoint, or None if no evaluation counted.
        best_criterion: its value of the criterion, a metric's with a minus sign; or None.
    """

    stopped_by: str
    finished: bool
    step: int
    tokens: int
    seconds: float
    train_loss: float
    valid: EvaluationResult | None
    best: EvaluationResult | None = None
    criterion: str = "loss"
    valid_step: int | None = None
    best_step: int | None = None
    best_criterion: float | None = None

    @property
    def last_evaluation(self) -> dict[str, int | float] | None:
        """Step, criterion and loss of the last validation in this process, by name."""
        if self.valid is None or self.valid_step is None:
            return None
        return {"step": self.valid_step, self.criterion: self._sign * self.valid.criterion, "loss": self.valid.loss}

    @property
    def best_evaluation(self) -> dict[str, int | float] | None:
        """Step and criterion of the best checkpoint, by name."""
        if self.best_step is None or self.best_criterion is None:
            return None
        return {"step": self.best_step, self.criterion: self._sign * self.best_criterion}

    @property
    def _sign(self) -> int:
        return 1 if self.criterion == "loss" else -1

    @property
    def status(self) -> str:
        """The status for ``state.json``: finished, stopped (by ``train.stop_after``) or interrupted (by a signal)."""
        if self.finished:
            return "finished"
        return "stopped" if self.stopped_by == "stop_after" else "interrupted"
