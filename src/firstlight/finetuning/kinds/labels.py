"""Labels: read from a file's values, collected from the training rows, and turned into what a head learns."""

import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from firstlight.errors import ConfigError, CorpusError, nearest
from firstlight.files.field_text import field_text, is_missing
from firstlight.finetuning.examples import EncodedExample
from firstlight.finetuning.spec import MAX_SCORE, TaskSpec

_DROP = 'Leave such rows out with data.drop_labels = [""].'


def label_text(value: Any, where: str) -> str | None:
    """Return a label as text, whole numbers without a point, so that 1, 1.0 and "1" are one label.

    Raises:
        CorpusError: it is a list or a table, or infinite.
    """
    if isinstance(value, list | tuple | dict | np.ndarray):
        fix = (
            "Set label in [columns] to a column with one label per row. Several labels per row need a kind of your "
            "own: docs/howto/extend.md has one."
        )
        raise CorpusError("has no single label", where=where, found=repr(value)[:80], fix=fix)
    if is_missing(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float | Decimal):
        if math.isinf(value):
            raise CorpusError("has no label that is finite", where=where, found=float(value))
        value = int(value) if value == int(value) else float(value)
    text = (field_text(value, where, problem="is not a label") or "").strip()
    return text or None


def fit_classes(spec: TaskSpec, labels: Sequence[tuple[str | None, str]]) -> TaskSpec:
    """Complete the classes of a task.

    Args:
        spec: the task as its file declares it.
        labels: of the training rows, each with its location.

    Raises:
        CorpusError: there is no label, or only one.
        ConfigError: the metric does not fit the number of labels.
    """
    where = labels[0][1]
    seen = {label for label, _ in labels} - {None}
    if not seen:
        raise CorpusError("has no label, and no other row has one", where=where, fix="Set label in [columns].")
    if len(seen) == 1:
        raise CorpusError(
            "has the same label as every other row, so there is nothing to learn", where=where, found=seen.pop()
        )
    found = sorted(filter(None, seen), key=lambda v: (0, float(v), "") if is_number(v) else (1, 0.0, v))
    values = spec.label_values or _indices(spec.labels, found) or spec.labels or found
    if spec.metric == "f1" and len(values) != 2:
        raise ConfigError(
            "f1 is that of the second of two labels",
            where="metric",
            found=f"{len(values)} labels",
            fix='Set metric = "macro_f1", the mean over the labels.',
        )
    return spec.model_copy(update={"label_values": list(values), "labels": list(spec.labels or values)})


def _indices(names: Sequence[str], found: Sequence[str]) -> list[str]:
    """Return the indices of names, from 0, if all labels are some of these, 0 too, and none is a name; else nothing."""
    indices = [str(i) for i in range(len(names))]
    return indices if "0" in found and set(found) <= set(indices) - set(names) else []


def class_encoder(spec: TaskSpec) -> Callable[[str | None, str], int]:
    """Return the function from a label and its location to the class; it raises CorpusError for unknown labels."""
    classes = {label: i for i, label in reversed(list(enumerate(spec.label_values)))}

    def encode(label: str | None, where: str) -> int:
        if label in classes:
            return classes[label]
        near = nearest(str(label), spec.label_values)
        raise CorpusError(
            "has no label" if label is None else "has a label that the task does not list",
            where=where,
            found=label,
            expected=f"one of {', '.join(spec.label_values)}"[:300],
            fix=_DROP if label is None else f"Did you mean {near!r}?" if near else _advise_unlisted(label),
        )

    return encode


def _advise_unlisted(label: str) -> str:
    """Say what to do about a class that no training row has, such as one of the test rows alone."""
    named = json.dumps([label], ensure_ascii=False)
    return f"Add training rows of it, list it in label_values, or leave its rows out with data.drop_labels = {named}."


def read_number(label: Any, where: str, decimal: str = ".") -> float:
    """Return a score.

    Raises:
        CorpusError: the label is not a finite number, or not one that fp32 can hold.
    """
    # A point in a number with a decimal comma would be one between thousands.
    text = label if label is None or decimal == "." else str(label).translate(str.maketrans(",.", ".,"))
    if text is None or not is_number(text):
        has_comma = decimal == "." and is_number(str(label).replace(",", ".", 1))
        fix = 'Write decimals with a point; in a .csv or .tsv, data.decimal = "," reads them.' if has_comma else None
        expected = "a number" if decimal == "." else f"a number with {decimal!r} for decimals"
        raise CorpusError("is not a score", where=where, found=repr(label)[:60], expected=expected, fix=fix)
    score = float(text)
    if abs(score) > MAX_SCORE:
        raise CorpusError(
            "has a score that is too large",
            where=where,
            found=f"{score:g}",
            expected=f"at most {MAX_SCORE:.3g} in size, as fp32 can hold",
            fix="Rescale the scores.",
        )
    return score


def is_number(text: str) -> bool:
    """Whether a text is a finite number; 1_0, which Python reads as 10, is not."""
    try:
        return "_" not in text and math.isfinite(float(text))
    except (ValueError, OverflowError):  # such as a number of 400 digits
        return False


def flat_labels(rows: Sequence[EncodedExample]) -> np.ndarray:
    """Return the labels of all rows, those of words one after the other."""
    return np.array([value for row in rows for value in (row.label if isinstance(row.label, tuple) else (row.label,))])


def frequency_loss(train: np.ndarray, true: np.ndarray, n: int) -> float:
    """Return the cross-entropy of classes under the frequencies of ``train``, each counted once more, in nats."""
    counts = np.bincount(train.astype(np.int64), minlength=n) + 1
    return float(-np.log(counts / counts.sum())[true.astype(np.int64)].mean())
