"""Find a collapsed start of fine-tuning: a model that answers every row alike, and knows no more than label counts.

Fine-tuning fails in this way for some random starts (Dodge et al. 2020; Mosbach et al. 2021), and such a model rarely
recovers.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from firstlight.finetuning.examples import EncodedExample, Prediction
from firstlight.finetuning.kinds import head_of
from firstlight.finetuning.spec import TaskSpec

_SPREAD = 0.01  # of predicted scores, relative to that of the labels: below it they count as one


def constant_prediction(
    spec: TaskSpec, train: Sequence[EncodedExample], rows: Sequence[EncodedExample], predictions: Sequence[Prediction]
) -> Any:
    """Return what is predicted for every row, as people write it; None where the model has not collapsed.

    It has where all predictions are the same, the labels are not, and the loss is not below that of a model which
    always predicts the distribution of the training labels.

    Args:
        spec: a task with a head.
        train: the training rows.
        rows: validation rows, labelled.
        predictions: for each of them.
    """
    head = head_of(spec)
    assert head is not None, "callers check that the task has one"
    true, predicted = _flat([row.label for row in rows]), _flat([p.label for p in predictions])
    known = _flat([row.label for row in train])
    if len(np.unique(true)) < 2 or not len(known):
        return None
    if head.has_probabilities:
        is_constant = len(np.unique(predicted)) == 1
        limit = _constant_loss(known, true, len(spec.labels)) if head.has_classes else -math.inf
    else:
        is_constant = bool(predicted.std() < _SPREAD * true.std())
        limit = float(np.mean((true - known.mean()) ** 2))
    loss = sum(p.loss for p in predictions) / len(true)
    if not is_constant or loss < limit:
        return None
    label = predicted[0].item()
    return head.format_label(spec, (label,))[0] if head.is_per_token else head.format_label(spec, label)


def _flat(labels: Sequence[Any]) -> np.ndarray:
    """Return the labels of all rows, of words one after the other."""
    return np.concatenate([np.atleast_1d(np.asarray(label)) for label in labels]) if labels else np.zeros(0)


def _constant_loss(train: np.ndarray, true: np.ndarray, n: int) -> float:
    """Return the cross-entropy of ``true`` under the frequencies of ``train``, none of which counts as zero."""
    counts = np.bincount(train.astype(np.int64), minlength=n) + 1
    return float(-np.log(counts / counts.sum())[true.astype(np.int64)].mean())
