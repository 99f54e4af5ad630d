"""Find a collapsed start of fine-tuning: a model that answers every row alike, and knows no more than label counts.

Fine-tuning fails in this way for some random starts (Dodge et al. 2020; Mosbach et al. 2021), and such a model rarely
recovers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from firstlight.finetuning.examples import EncodedExample, Prediction
from firstlight.finetuning.kinds import head_of
from firstlight.finetuning.spec import TaskSpec

_SPREAD = 0.01  # of predicted scores, relative to that of the labels: below it they count as one
_MIN_LABELS = 10  # fewer are predicted alike by chance


def constant_prediction(
    spec: TaskSpec, train: Sequence[EncodedExample], rows: Sequence[EncodedExample], predictions: Sequence[Prediction]
) -> Any:
    """Return what is predicted for every row, as people write it; None where the model has not collapsed.

    It has where all predictions are the same, the labels are not, and the loss is not below that of a model which
    always predicts the distribution of the training labels (``TaskHead.constant_loss``).

    Args:
        spec: a task with a head.
        train: the training rows.
        rows: validation rows, labelled.
        predictions: for each of them.
    """
    head = head_of(spec)
    assert head is not None, "callers check that the task has one"
    limit = head.constant_loss(spec, train, rows) if train and rows else None
    if limit is None:
        return None
    labels, predicted = [row.label for row in rows], [prediction.label for prediction in predictions]
    guess, true = head.metric_inputs(spec, "", predicted, labels)
    if len(true) < _MIN_LABELS or sum(p.loss for p in predictions) / len(true) < limit:
        return None
    if not head.has_probabilities:
        return head.format_label(spec, float(guess.mean())) if guess.std() < _SPREAD * true.std() else None
    if len(np.unique(guess)) > 1 or len(np.unique(true)) == 1:
        return None
    label = guess[0].item()
    return head.format_label(spec, (label,))[0] if head.is_per_token else head.format_label(spec, label)
