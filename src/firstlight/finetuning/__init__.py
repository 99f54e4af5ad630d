"""Labelled tasks: input transformations, heads, mixtures, adapters."""

from firstlight.finetuning.build_model import build_task_model, layer_lr_scales, unfreeze_layers
from firstlight.finetuning.dataset import Example, TaskData, load_task, read_unlabelled
from firstlight.finetuning.loss import TaskBatch, TaskLoss, collate
from firstlight.finetuning.metrics import EvalResults, Prediction, TaskMetrics, compute_metrics, format_label, predict
from firstlight.finetuning.mixture import Mixture, RowSource, mixing_fractions
from firstlight.finetuning.preprocess import (
    DELIMITER,
    EXTRACT,
    PAD,
    START,
    EncodedExample,
    Preprocessor,
    chat_template,
    new_tokens,
)
from firstlight.finetuning.settings import AdapterSettings, TuningSettings
from firstlight.finetuning.sources import ReplaySource, TaskRows
from firstlight.finetuning.spec import TaskSpec, read_spec

__all__ = [
    "DELIMITER",
    "EXTRACT",
    "PAD",
    "START",
    "AdapterSettings",
    "EncodedExample",
    "EvalResults",
    "Example",
    "Mixture",
    "Prediction",
    "Preprocessor",
    "ReplaySource",
    "RowSource",
    "TaskBatch",
    "TaskData",
    "TaskLoss",
    "TaskMetrics",
    "TaskRows",
    "TaskSpec",
    "TuningSettings",
    "build_task_model",
    "chat_template",
    "collate",
    "compute_metrics",
    "format_label",
    "layer_lr_scales",
    "load_task",
    "mixing_fractions",
    "new_tokens",
    "predict",
    "read_spec",
    "read_unlabelled",
    "unfreeze_layers",
]
