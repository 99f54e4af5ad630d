"""The interface of a task kind: how its rows are read and encoded, and what head learns from them.

A kind is an input format and a head; both are stateless, and get the task's settings with every call. The rest of the
package asks only what is declared here, never for a kind by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from firstlight.finetuning.examples import EncodedExample, Example, Label, Prediction, RawExample, TaskBatch
from firstlight.finetuning.sequences import SequenceBuilder
from firstlight.finetuning.spec import Columns, TaskSpec, Truncation
from firstlight.statistics.metrics import Metric
from firstlight.tokenizer import Tokenizer

LabelEncoder = Callable[[RawExample], Label]


class InputFormat(ABC):
    """How the columns of a row become texts, and the texts token sequences.

    Attributes:
        columns: keys of ``[columns]`` that a task must set: one or more alternatives; an empty one where
            ``detect_columns`` can find them.
        optional_columns: further keys that a task may set.
        special_tokens: tokens that the format adds to the vocabulary.
        is_chat: the tokenizer gets a chat template.
        splits_long_rows: a row that is longer than the model's block size becomes several, instead of being truncated.
        truncations: the values of ``truncation`` that ``encode`` obeys.
    """

    columns: ClassVar[tuple[tuple[str, ...], ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()
    special_tokens: ClassVar[tuple[str, ...]] = ()
    is_chat: ClassVar[bool] = False
    splits_long_rows: ClassVar[bool] = False
    truncations: ClassVar[tuple[Truncation, ...]] = ("tail", "head", "middle", "error")

    @abstractmethod
    def read(self, record: Any, columns: Columns, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the texts of a record, and their roles (empty but for chats).

        Raises:
            EmptyTextError: a text is empty.
            CorpusError: a column is missing or holds something else.
        """

    def detect_columns(self, record: Any) -> Columns | None:  # noqa: ARG002
        """Return the columns of a task that sets none, from the names in a record; None if none is known."""
        return None

    def read_choice_labels(self, record: Any, columns: Columns, where: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return the names of the answers of a record, one for each; empty where they have none."""
        return ()

    def unused_keys(self, record: Any, columns: Columns) -> Sequence[str]:  # noqa: ARG002
        """Return the keys within the columns of a record that ``read`` leaves out, and that are not empty."""
        return ()

    def texts_to_encode(self, example: Example, tokenizer: Tokenizer) -> Sequence[str]:  # noqa: ARG002
        """Return the texts of a row whose ids ``encode`` gets."""
        return example.texts

    def identifying_texts(self, example: Example) -> Sequence[str]:
        """Return the texts of a row that tell it apart; rows that share one belong on the same side of a split."""
        return example.texts

    @abstractmethod
    def encode(self, example: Example, parts: list[np.ndarray], builder: SequenceBuilder) -> EncodedExample:
        """Return the sequences of a row; those of a format that splits long rows may exceed the block size.

        Args:
            example: the row.
            parts: the ids of each of ``texts_to_encode``.
            builder: joins and truncates them.
        """


class TaskHead(ABC):
    """What is learned from the hidden states: labels, outputs, loss, predictions and metrics.

    Attributes:
        has_classes: a label is one of ``spec.labels``: rows are split by it, classes may be weighted, a confusion
            matrix is made.
        has_probabilities: a prediction has probabilities that sum to one: calibration is measured.
        is_per_token: one label per word, not per row.
        metrics: all metrics that fit, by name.
        errors: further values that are reported and lower is better, by name; they cannot select a checkpoint.
        prediction_keys: those of ``format_prediction``; all are null for a row that has no text.
    """

    has_classes: ClassVar[bool] = False
    has_probabilities: ClassVar[bool] = False
    is_per_token: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, Metric]] = {}
    errors: ClassVar[Mapping[str, Metric]] = {}
    prediction_keys: ClassVar[tuple[str, ...]] = ("label", "probabilities")

    @abstractmethod
    def read_label(self, value: Any, texts: Sequence[str], where: str) -> Any:
        """Return the label of a row as ``RawExample`` holds it, from the value in its column; None where it has none.

        Raises:
            CorpusError: the value cannot be a label.
        """

    @abstractmethod
    def fit_labels(
        self, spec: TaskSpec, train: Sequence[RawExample], rows: Sequence[RawExample]
    ) -> tuple[TaskSpec, LabelEncoder]:
        """Complete the labels (or scale) of a task, and return the function from a row to what the head learns.

        Args:
            spec: the task as its file declares it.
            train: the training rows.
            rows: the rows of all splits.

        Raises:
            CorpusError: there is nothing to learn, or (from the function) the label is missing or unknown.
        """

    @abstractmethod
    def n_outputs(self, spec: TaskSpec) -> int:
        """Return the outputs of the head's linear layer."""

    @abstractmethod
    def collate_labels(self, rows: Sequence[EncodedExample]) -> Tensor:
        """Stack the labels of rows, the first dimension being B; any value stands in for a missing one."""

    @abstractmethod
    def logits(
        self, spec: TaskSpec, head: nn.Module, hidden: Float[Tensor, "N T C"], batch: TaskBatch, dropout: nn.Module
    ) -> Float[Tensor, "..."]:
        """Apply the head to the last hidden states of all B * S sequences; the first dimension of the result is B."""

    @abstractmethod
    def losses(
        self, logits: Float[Tensor, "..."], batch: TaskBatch, class_weights: Tensor | None = None
    ) -> Float[Tensor, " N"]:
        """Return the loss of each row, or of each word (0 for padding)."""

    def constant_loss(
        self,
        spec: TaskSpec,  # noqa: ARG002
        train: Sequence[EncodedExample],  # noqa: ARG002
        rows: Sequence[EncodedExample],  # noqa: ARG002
    ) -> float | None:
        """Return the mean loss, per label of ``rows``, of always predicting the distribution of the training labels.

        With it a collapsed start is recognized. None: it is not looked for.
        """
        return None

    @abstractmethod
    def predict(self, logits: Float[Tensor, "..."], rows: Sequence[EncodedExample]) -> list[tuple[Label, np.ndarray]]:
        """Return the predicted label and the probabilities of each row; see ``Prediction``."""

    @abstractmethod
    def reported_metrics(self, spec: TaskSpec) -> list[str]:
        """Name the metrics that are reported; the first one is the default of ``metric``."""

    def metric_inputs(
        self,
        spec: TaskSpec,  # noqa: ARG002
        metric: str,  # noqa: ARG002
        predicted: Sequence[Any],
        true: Sequence[Any],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what a metric compares, from the labels of rows: an entry per row or, of labels of words, per word."""
        per_token = self.is_per_token
        stacked = (np.array([v for row in rows for v in row] if per_token else rows) for rows in (predicted, true))
        return next(stacked), next(stacked)

    @abstractmethod
    def format_label(self, spec: TaskSpec, label: Label) -> Any:
        """Return a label as people write it: the name of a class, a score in the task's own scale."""

    @abstractmethod
    def format_prediction(self, spec: TaskSpec, prediction: Prediction) -> dict[str, Any]:
        """Return the keys that ``predict`` writes about a row."""


@dataclass(frozen=True, slots=True)
class TaskKind:
    """A kind of task: an entry of the table ``KINDS``, or ``package.module:NAME`` of your own.

    Attributes:
        inputs: the format of its rows.
        head: what is learned; None for a language model's own loss.
        labelled_head: the head of a task that names its labels, where that is another one.
        sequence_classification: transformers has a class for it, ``…ForSequenceClassification``.
        pipeline_tag: the task of the Hugging Face hub that it is, for the model card.
    """

    inputs: InputFormat
    head: TaskHead | None
    labelled_head: TaskHead | None = None
    sequence_classification: bool = False
    pipeline_tag: str | None = None
