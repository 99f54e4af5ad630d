"""What one run of the loop is given, remembers, and returns."""

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
from firstlight.train.log import RunLog
from firstlight.train.settings import TrainSettings
from firstlight.train.state import Counters, TrainState
from firstlight.types import BatchLike


class BatchSource(Protocol):
    """Where batches come from; the loss is the module's ``forward``."""

    def batch(self, position: int, rows: int) -> BatchLike:
        """Return rows ``position`` to ``position + rows``: a pure function."""
        ...

    def sources(self, position: int, rows: int) -> Sequence[str]:
        """Name the documents in those rows."""
        ...


class EvaluationResult(Protocol):
    """What an evaluation found."""

    @property
    def loss(self) -> float:
        """The valid loss: mean in nats a target."""
        ...

    @property
    def criterion(self) -> float:
        """What the best checkpoint has least of."""
        ...

    def figures(self) -> Mapping[str, float]:
        """Return all there is to log, by name."""
        ...


@dataclass(slots=True)
class LoopState:
    """What this process remembers between steps, and no checkpoint needs to hold.

    Attributes:
        seconds_before: wall time of earlier processes of this run.
        began: ``time.perf_counter()`` when the loop began.
        steps: steps taken here, those undone by a rollback included.
        owes_save: a checkpoint was due while the loss spiked.
        unsaved: an evaluation was counted after the last checkpoint.
        best: step and result of the best evaluation of this process.
    """

    seconds_before: float = 0.0
    start_time: float = 0.0
    steps: int = 0
    checkpoint_pending: bool = False
    evaluation_unsaved: bool = False
    best: tuple[int, EvaluationResult] | None = None


@dataclass(slots=True)
class TrainContext:
    """Everything that one run of the loop needs, put together by a stage.

    Attributes:
        run: the run directory.
        state: what changes.
        module: the loss module, compiled and wrapped for the place.
        objective: batches by position.
        rows: rows of one update, all processes together.
        measure: evaluates the weights as they are, so many rows a forward pass; None where there is no valid split.
        contract: hashes that every checkpoint carries.
        sample: writes a text with the weights as they are, or None.
        restart: puts the weights and the optimiser back to the start of the run.
        flops_per_token: model FLOPs of one token, forward and backward.
        ceiling: FLOP/s that one process's device can reach, or None where unknown.
        process_start: ``time.perf_counter()`` when the process began.
        counts: what targets are, tokens or rows of a task.
        prepare: called before each step with the number of steps done, such as to thaw layers; or None.
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
    before_step: Callable[[int], None] | None = None
    loop: LoopState = field(default_factory=LoopState, init=False)

    @property
    def counters(self) -> Counters:
        """The counters of the state, which a rollback replaces."""
        return self.state.counters

    def read(self, position: int, rows: int) -> BatchLike:
        """Return this process's share of ``rows`` rows from ``position`` on."""
        own = rows // self.device_context.world_size
        return self.batches.batch(position + self.device_context.rank * own, own)

    def begin(self) -> None:
        """Start the clock of this run of the loop."""
        self.loop = LoopState(self.counters.seconds, time.perf_counter())
        self.update_seconds()
        self.counters.setup_seconds += self.counters.seconds - self.loop.seconds_before

    def update_seconds(self) -> None:
        """Bring the counters' seconds up to date; processes agree on them where the schedule counts on time."""
        seconds = self.loop.seconds_before + time.perf_counter() - self.process_start
        agreed = seconds if self.limits.minutes is None else parallel.broadcast_object(seconds, self.device_context)
        self.counters.seconds = agreed


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a run of the loop ended.

    Attributes:
        stopped_by: "steps", "tokens", "epochs", "auto", "minutes", "convergence"; or "stop_after" or a
            signal's name, after which the run is not finished.
        valid: the last evaluation, or None.
        best: the evaluation of the best checkpoint, or None if it was made before a resume.
    """

    stopped_by: str
    finished: bool
    step: int
    tokens: int
    seconds: float
    train_loss: float
    valid: EvaluationResult | None
    best: EvaluationResult | None = None
