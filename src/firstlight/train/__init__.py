"""The loop, the state, checkpoints, resume, metrics, valid loss, convergence and spike handling."""

from firstlight.train.checkpoint import Checkpoints, Snapshot, read_table, restore, snapshot
from firstlight.train.context import FitResult, Measured, Objective, TrainContext
from firstlight.train.limits import Limits
from firstlight.train.log import RunLog
from firstlight.train.loop import fit
from firstlight.train.micro_batch import first_guess, row_bytes
from firstlight.train.settings import MAY_CHANGE, Convergence, Guard, TrainSettings
from firstlight.train.state import Counters, LossModule, TrainState
from firstlight.train.step import Outcome, train_step
from firstlight.train.trackers import TRACKERS, Tracker
from firstlight.train.validate import ValidResult, validate

__all__ = [
    "MAY_CHANGE",
    "TRACKERS",
    "Checkpoints",
    "Convergence",
    "Counters",
    "FitResult",
    "Guard",
    "Limits",
    "LossModule",
    "Measured",
    "Objective",
    "Outcome",
    "RunLog",
    "Snapshot",
    "Tracker",
    "TrainContext",
    "TrainSettings",
    "TrainState",
    "ValidResult",
    "first_guess",
    "fit",
    "read_table",
    "restore",
    "row_bytes",
    "snapshot",
    "train_step",
    "validate",
]
