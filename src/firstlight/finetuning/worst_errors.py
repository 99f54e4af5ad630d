"""What stands behind a score: the most confident wrong predictions, and the score of the majority class."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.finetuning.examples import EncodedExample, Prediction
from firstlight.finetuning.kinds import TaskHead
from firstlight.finetuning.spec import TaskSpec

Decode = Callable[[np.ndarray], str]

_MAX_WORST = 20
_MAX_TEXT = 500  # characters


@dataclass(frozen=True, slots=True)
class _Error:
    """A wrong prediction: its row, for a class per word the word's number, and what it is sorted by."""

    row: int
    word: int | None
    badness: float


def worst_errors(
    spec: TaskSpec,
    head: TaskHead,
    rows: Sequence[EncodedExample],
    predictions: Sequence[Prediction],
    decode: Decode | None = None,
) -> list[dict[str, Any]]:
    """Return the most confident wrong predictions; of scores, those with the largest losses.

    Args:
        spec: of the task.
        head: of the task.
        rows: labelled.
        predictions: for each row.
        decode: returns the text of ids; without it, the errors have no text.
    """
    worst = sorted(_errors(head, rows, predictions), key=lambda error: -error.badness)[:_MAX_WORST]
    found = []
    for error in worst:
        row, prediction = rows[error.row], predictions[error.row]
        true, predicted = (head.format_label(spec, label) for label in (row.label, prediction.label))
        table = {
            "where": row.where,
            "true": true if error.word is None else true[error.word],
            "predicted": predicted if error.word is None else predicted[error.word],
            "probability": error.badness if head.has_probabilities else None,
            "loss": prediction.loss,
        }
        if error.word is not None:
            table["word"] = error.word + 1
        if decode is not None:
            table |= _texts(row, prediction, error, decode)
        found.append(table)
    return found


def majority_baseline(
    spec: TaskSpec, head: TaskHead, metric: str, train: Sequence[EncodedExample], true: Sequence[Any]
) -> dict[str, Any] | None:
    """Return the most frequent label of the training rows, and the metric of predicting it for every row.

    Args:
        spec: of the task.
        head: of the task.
        metric: name of one of the head's metrics.
        train: the training rows.
        true: labels of the rows that are scored.

    Returns:
        ``label`` and ``value``; None for scores, or without training rows.
    """
    if not head.has_probabilities or not len(true):
        return None
    counts = Counter(value for row in train for value in (row.label if isinstance(row.label, tuple) else (row.label,)))
    if not counts:
        return None
    label = counts.most_common(1)[0][0]
    named = spec.labels[int(label)] if head.has_classes and label is not None else label
    constant = [(label,) * len(row) if isinstance(row, tuple) else label for row in true]
    return {"label": named, "value": head.metrics[metric](*head.metric_inputs(spec, metric, constant, true))}


def _errors(head: TaskHead, rows: Sequence[EncodedExample], predictions: Sequence[Prediction]) -> Iterator[_Error]:
    for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        if not head.has_probabilities:
            yield _Error(i, None, prediction.loss)
        elif isinstance(row.label, tuple) and isinstance(prediction.label, tuple):
            for word, (true, predicted) in enumerate(zip(row.label, prediction.label, strict=True)):
                if predicted != true:
                    yield _Error(i, word, float(prediction.probabilities[word].max()))
        elif prediction.label != row.label:
            yield _Error(i, None, float(prediction.probabilities.max()))


def _texts(row: EncodedExample, prediction: Prediction, error: _Error, decode: Decode) -> dict[str, str]:
    """Return the text of a row, of several answers with the one that was predicted; of a word, also the word."""
    sequence = row.sequences[0]
    if row.choices and prediction.label in row.choices:
        sequence = row.sequences[row.choices.index(prediction.label)]
    texts = {"text": decode(sequence)[:_MAX_TEXT]}
    if error.word is not None:
        first = row.positions[error.word - 1] + 1 if error.word else 0
        texts["word_text"] = decode(sequence[first : row.positions[error.word] + 1]).strip()
    return texts
