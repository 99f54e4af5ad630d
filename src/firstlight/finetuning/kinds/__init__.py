"""Task kinds: the table of what a ``kind`` in a TASK.toml means.

A new kind is an entry here, or a ``TaskKind`` of your own that a TASK.toml names as ``package.module:NAME``.
"""

from functools import cache

from firstlight.config import load_object
from firstlight.errors import ConfigError, nearest
from firstlight.finetuning.kinds.column_text import EmptyTextError
from firstlight.finetuning.kinds.heads import (
    ClassificationHead,
    MultipleChoiceHead,
    RegressionHead,
    TokenClassificationHead,
    pool,
    pooled_states,
    row_losses,
)
from firstlight.finetuning.kinds.inputs import (
    ChatInput,
    ChoicesInput,
    PlainTextInput,
    TextInput,
    TextPairInput,
    TokensInput,
)
from firstlight.finetuning.kinds.interface import InputFormat, LabelEncoder, TaskHead, TaskKind
from firstlight.finetuning.spec import Columns, TaskSpec

__all__ = [
    "KINDS",
    "EmptyTextError",
    "InputFormat",
    "LabelEncoder",
    "TaskHead",
    "TaskKind",
    "check_spec",
    "head_of",
    "kind_of",
    "pool",
    "pooled_states",
    "row_losses",
]

_TEXT_CLASSIFICATION = "text-classification"

KINDS: dict[str, TaskKind] = {
    "classification": TaskKind(
        TextInput(), ClassificationHead(), sequence_classification=True, pipeline_tag=_TEXT_CLASSIFICATION
    ),
    "pair": TaskKind(
        TextPairInput(), ClassificationHead(), sequence_classification=True, pipeline_tag=_TEXT_CLASSIFICATION
    ),
    "regression": TaskKind(
        TextInput(), RegressionHead(), sequence_classification=True, pipeline_tag=_TEXT_CLASSIFICATION
    ),
    "similarity": TaskKind(
        TextPairInput(both_orders=True),
        RegressionHead(),
        labelled_head=ClassificationHead(),
        pipeline_tag="sentence-similarity",
    ),
    "multiple_choice": TaskKind(ChoicesInput(), MultipleChoiceHead(), pipeline_tag="multiple-choice"),
    "token_classification": TaskKind(TokensInput(), TokenClassificationHead(), pipeline_tag="token-classification"),
    "text": TaskKind(PlainTextInput(), None),
    "chat": TaskKind(ChatInput(), None),
}


def kind_of(spec: TaskSpec) -> TaskKind:
    """Return the kind of a task.

    Raises:
        UnknownName: it is neither in the table nor written ``package.module:NAME``.
        ConfigError: it cannot be loaded, or is not a ``TaskKind``.
    """
    return _load(spec.kind)


def head_of(spec: TaskSpec) -> TaskHead | None:
    """Return the head of a task; None where the language model's own loss is learned. Raises as ``kind_of``."""
    kind = kind_of(spec)
    named = spec.label_values or spec.labels
    return kind.labelled_head if named and kind.labelled_head is not None else kind.head


@cache
def _load(name: str) -> TaskKind:
    found: TaskKind = load_object(name, KINDS, kind="task kind", interface=_problem, where="kind")
    return found


def _problem(found: object) -> str | None:
    return None if isinstance(found, TaskKind) else f"it is {type(found).__name__}, not a firstlight TaskKind"


def check_spec(spec: TaskSpec) -> None:
    """Check the settings of a task against its kind.

    Raises:
        ConfigError: the kind is unknown, a column is missing, or a setting does not fit the kind.
    """
    kind, head = kind_of(spec), head_of(spec)
    problem = None if spec.data.format == "folders" else _columns_problem(spec, kind)
    fix: str | None = None
    if problem is None and "conll" in spec.data.formats and (head is None or not head.is_per_token):
        problem = f"files of words (data.format conll) do not fit a task of kind {spec.kind}, without a label per word"
    if problem is None and spec.truncation not in kind.inputs.truncations:
        fitting = " or ".join(kind.inputs.truncations)
        problem = f"truncation {spec.truncation} does not fit a task of kind {spec.kind}; expected {fitting}"
    if problem is None and spec.pool == "mean" and (head is None or head.is_per_token):
        problem = f"pool {spec.pool} does not fit a task of kind {spec.kind}, whose head does not read whole texts"
    if problem is None and spec.class_weights != "none" and (head is None or not head.has_classes):
        problem = f"class_weights {spec.class_weights} do not fit a task of kind {spec.kind} without classes"
    if problem is None and spec.metric != "auto" and (head is None or spec.metric not in head.metrics):
        fitting = f"; expected one of {', '.join(head.metrics)}" if head is not None else ""
        problem = f"metric {spec.metric} does not fit a task of kind {spec.kind}{fitting}"
        near = nearest(spec.metric, head.metrics) if head is not None else None
        fix = near and f"Did you mean {near}?"
    if problem is not None:
        raise ConfigError(problem, fix=fix)
    unused = [*_unused_settings(spec, head), *_unused_columns(spec, kind, head)]
    if unused:
        raise ConfigError(f"{unused[0]} does not fit a task of kind {spec.kind}", fix="Remove it from the task.")


def _unused_settings(spec: TaskSpec, head: TaskHead | None) -> list[str]:
    """Return the settings about labels that are set and that the head does not read."""
    has_classes = head is not None and head.has_classes
    found = {
        "labels": spec.labels and not has_classes,
        "label_values": spec.label_values and not has_classes,
        "scale": spec.scale is not None and (head is None or has_classes),
        "data.decimal": spec.data.decimal != "." and (head is None or has_classes),
        "answer_format": spec.answer_format != "auto" and (head is None or has_classes),
        "data.drop_labels": spec.data.drop_labels and (head is None or head.is_per_token),
    }
    return [name for name, is_unused in found.items() if is_unused]


def _unused_columns(spec: TaskSpec, kind: TaskKind, head: TaskHead | None) -> list[str]:
    """Return the columns that are set and that the kind does not read; kinds of other packages may read any."""
    if spec.kind not in KINDS or spec.data.format == "folders":
        return []
    given = {name for name, value in spec.columns if value is not None}
    used = next((set(columns) for columns in kind.inputs.columns if given.issuperset(columns)), set())
    used |= {"choice_labels"} if "choices" in used else set()
    used |= set(kind.inputs.optional_columns)
    used |= {"label"} if head is not None else set()
    return [f"columns.{name}" for name in Columns.model_fields if name in given - used]


def _columns_problem(spec: TaskSpec, kind: TaskKind) -> str | None:
    if () in kind.inputs.columns and spec.columns == Columns():
        return None
    missing = [[c for c in columns if getattr(spec.columns, c) is None] for columns in kind.inputs.columns if columns]
    if not missing or not all(missing):
        return None
    if len(missing) == 1:
        return f"a task of kind {spec.kind} needs columns.{missing[0][0]}"
    alternatives = [" and ".join(f"columns.{c}" for c in columns) for columns in kind.inputs.columns if columns]
    return f"a task of kind {spec.kind} needs {', or '.join(alternatives)}"
