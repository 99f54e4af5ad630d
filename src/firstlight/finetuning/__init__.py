"""Labelled tasks: input transformations, heads, mixtures, adapters."""

from firstlight.finetuning.build_model import build, rates, thaw
from firstlight.finetuning.dataset import Example, TaskData, read_inputs, read_task
from firstlight.finetuning.loss import TaskBatch, TaskLoss, collate
from firstlight.finetuning.metrics import Prediction, TaskFigures, TasksResult, judge, predict, shown
from firstlight.finetuning.mixture import Mixture, Source, shares
from firstlight.finetuning.preprocess import DELIMITER, EXTRACT, PAD, START, Row, Transform, chat_template, new_tokens
from firstlight.finetuning.settings import Adapter, FinetuneTable
from firstlight.finetuning.sources import Replay, TaskRows
from firstlight.finetuning.spec import TaskSpec, read_spec

__all__ = [
    "DELIMITER",
    "EXTRACT",
    "PAD",
    "START",
    "Adapter",
    "Example",
    "FinetuneTable",
    "Mixture",
    "Prediction",
    "Replay",
    "Row",
    "Source",
    "TaskBatch",
    "TaskData",
    "TaskFigures",
    "TaskLoss",
    "TaskRows",
    "TaskSpec",
    "TasksResult",
    "Transform",
    "build",
    "chat_template",
    "collate",
    "judge",
    "new_tokens",
    "predict",
    "rates",
    "read_inputs",
    "read_spec",
    "read_task",
    "shares",
    "shown",
    "thaw",
]
