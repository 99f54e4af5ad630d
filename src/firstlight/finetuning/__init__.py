"""Labelled tasks: kinds of tasks, their data, losses and metrics; mixtures, adapters, linear probes."""

from firstlight.finetuning.bag_of_words import BagOfWords, fit_bag_of_words
from firstlight.finetuning.build_model import build_task_model, layer_lr_scales, unfreeze_layers
from firstlight.finetuning.collapse import constant_prediction
from firstlight.finetuning.dataset import TaskData, changed_tables, load_task, read_unlabelled
from firstlight.finetuning.detection import split_files
from firstlight.finetuning.diagnostics import diagnose
from firstlight.finetuning.encoded_rows import PreparedTask, read_rows, save_rows
from firstlight.finetuning.examples import EncodedExample, Example, Prediction, RawExample, TaskBatch
from firstlight.finetuning.kinds import KINDS, InputFormat, TaskHead, TaskKind, head_of, kind_of
from firstlight.finetuning.loss import TaskLoss, balanced_class_weights, collate, evaluate_lm_loss
from firstlight.finetuning.metrics import (
    EvalResults,
    TaskMetrics,
    compute_metrics,
    criterion_name,
    format_label,
    format_prediction,
    predict,
)
from firstlight.finetuning.mixture import Mixture, RowSource, mixing_fractions
from firstlight.finetuning.preprocess import EncodedTask, Preprocessor, encode_task, special_tokens
from firstlight.finetuning.sequences import DELIMITER, EXTRACT, PAD, START, SpecialTokens, chat_template
from firstlight.finetuning.settings import AdapterSettings, TuningSettings
from firstlight.finetuning.sources import ReplaySource, TaskRows
from firstlight.finetuning.spec import DataFiles, TaskSpec
from firstlight.finetuning.task_file import change_spec, packaged_tasks, read_spec, read_tasks, tasks_to_json

__all__ = [
    "DELIMITER",
    "EXTRACT",
    "KINDS",
    "PAD",
    "START",
    "AdapterSettings",
    "BagOfWords",
    "DataFiles",
    "EncodedExample",
    "EncodedTask",
    "EvalResults",
    "Example",
    "InputFormat",
    "Mixture",
    "Prediction",
    "PreparedTask",
    "Preprocessor",
    "RawExample",
    "ReplaySource",
    "RowSource",
    "SpecialTokens",
    "TaskBatch",
    "TaskData",
    "TaskHead",
    "TaskKind",
    "TaskLoss",
    "TaskMetrics",
    "TaskRows",
    "TaskSpec",
    "TuningSettings",
    "balanced_class_weights",
    "build_task_model",
    "change_spec",
    "changed_tables",
    "chat_template",
    "collate",
    "compute_metrics",
    "constant_prediction",
    "criterion_name",
    "diagnose",
    "encode_task",
    "evaluate_lm_loss",
    "fit_bag_of_words",
    "format_label",
    "format_prediction",
    "head_of",
    "kind_of",
    "layer_lr_scales",
    "load_task",
    "mixing_fractions",
    "packaged_tasks",
    "predict",
    "read_rows",
    "read_spec",
    "read_tasks",
    "read_unlabelled",
    "save_rows",
    "special_tokens",
    "split_files",
    "tasks_to_json",
    "unfreeze_layers",
]
