"""The training loop, its state, checkpoints, metrics, validation, and the handling of loss spikes and convergence."""

from firstlight.train.autotune import Autotuner
from firstlight.train.checkpoint import CheckpointManager, Snapshot, read_trainer_state, restore, snapshot
from firstlight.train.context import BatchSource, EvaluationResult, FitResult, TrainContext
from firstlight.train.limits import Limits
from firstlight.train.live_report import LiveReport
from firstlight.train.log import RunLog
from firstlight.train.loop import fit
from firstlight.train.micro_batch import activation_bytes, free_device_memory, initial_micro_batch
from firstlight.train.settings import (
    CHANGEABLE_ON_RESUME,
    DECIDING_ON_RESUME,
    ConvergenceSettings,
    SpikeGuardSettings,
    TrainSettings,
)
from firstlight.train.state import Counters, LossModule, TrainState
from firstlight.train.step import StepResult, train_step
from firstlight.train.trackers import TRACKERS, Tracker, check_installed
from firstlight.train.validate import ValidationResult, validate

__all__ = [
    "CHANGEABLE_ON_RESUME",
    "DECIDING_ON_RESUME",
    "TRACKERS",
    "Autotuner",
    "BatchSource",
    "CheckpointManager",
    "ConvergenceSettings",
    "Counters",
    "EvaluationResult",
    "FitResult",
    "Limits",
    "LiveReport",
    "LossModule",
    "RunLog",
    "Snapshot",
    "SpikeGuardSettings",
    "StepResult",
    "Tracker",
    "TrainContext",
    "TrainSettings",
    "TrainState",
    "ValidationResult",
    "activation_bytes",
    "check_installed",
    "fit",
    "free_device_memory",
    "initial_micro_batch",
    "read_trainer_state",
    "restore",
    "snapshot",
    "train_step",
    "validate",
]
