"""Labelled tasks: input transformations, heads, mixtures, adapters."""

from firstlight.tasks.body import build, rates, thaw
from firstlight.tasks.loss import TaskBatch, TaskLoss, collate
from firstlight.tasks.measure import Said, TaskFigures, TasksResult, judge, predict, shown
from firstlight.tasks.mixture import Mixture, Source, shares
from firstlight.tasks.rows import Example, TaskData, read_inputs, read_task
from firstlight.tasks.settings import Adapter, FinetuneTable
from firstlight.tasks.sources import Replay, TaskRows
from firstlight.tasks.spec import TaskSpec, read_spec
from firstlight.tasks.transform import DELIMITER, EXTRACT, PAD, START, Row, Transform, chat_template, new_tokens

__all__ = [
    "DELIMITER",
    "EXTRACT",
    "PAD",
    "START",
    "Adapter",
    "Example",
    "FinetuneTable",
    "Mixture",
    "Replay",
    "Row",
    "Said",
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
