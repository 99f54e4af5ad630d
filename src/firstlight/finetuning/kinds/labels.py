"""Labels: read from a file's values, collected from the training rows, and turned into what a head learns."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from firstlight.errors import CorpusError, nearest
from firstlight.finetuning.examples import RawExample
from firstlight.finetuning.spec import MAX_SCORE, TaskSpec

_AnswerReader = Callable[[RawExample], int | None]


def label_text(value: Any, where: str) -> str | None:
    """Return a label as text, whole numbers without a point, so that 1, 1.0 and "1" are one label.

    Raises:
        CorpusError: it is a list or a table.
    """
    if isinstance(value, list | dict):
        raise CorpusError("has no single label", where=where, found=repr(value)[:80], fix="Set label in [columns].")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None  # as data frames write what is missing
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text or None


def fit_classes(spec: TaskSpec, labels: Sequence[tuple[str | None, str]]) -> TaskSpec:
    """Complete the classes of a task.

    Args:
        spec: the task as its file declares it.
        labels: of the training rows, each with its location.

    Raises:
        CorpusError: there is no label, or only one.
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
    values = spec.label_values or spec.labels or found
    return spec.model_copy(update={"label_values": list(values), "labels": list(spec.labels or values)})


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
            fix=f"Did you mean {near!r}?" if near else None,
        )

    return encode


def read_number(label: Any, where: str) -> float:
    """Return a score.

    Raises:
        CorpusError: the label is not a finite number, or not one that fp32 can hold.
    """
    if label is None or not is_number(label):
        raise CorpusError("is not a score", where=where, found=repr(label)[:60], expected="a number")
    if abs(float(label)) > MAX_SCORE:
        raise CorpusError(
            "has a score that is too large",
            where=where,
            found=f"{float(label):g}",
            expected=f"at most {MAX_SCORE:.3g} in size, as fp32 can hold",
            fix="Rescale the scores.",
        )
    return float(label)


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except (ValueError, OverflowError):  # such as a number of 400 digits
        return False


def answer_encoder(rows: Iterable[RawExample]) -> Callable[[RawExample], int]:
    """Return the function from a row to the index of its right answer, given by index, text or letter.

    One row cannot decide: among the answers "1" and "2" the label 1 may mean either. A number of a JSON or parquet file
    is an index from 0. For text, the first of text, index and letter that fits every row is used for all of them.
    """
    with_text = [raw for raw in rows if isinstance(raw.label, str)]
    readers: tuple[_AnswerReader, ...] = (_by_text, _by_index, _by_letter)
    fitting = [reader for reader in readers if all(reader(raw) is not None for raw in with_text)]

    def encode(raw: RawExample) -> int:
        tried = [_by_index] if isinstance(raw.label, int) else fitting or readers
        answer = next((n for n in (reader(raw) for reader in tried) if n is not None), None)
        if answer is None:
            raise CorpusError(
                "has no label" if raw.label is None else "has a label that is none of its answers",
                where=raw.where,
                found=repr(raw.label),
                expected=f"an index from 0 to {len(raw.texts) - 2}, a letter, or an answer",
            )
        return answer

    return encode


def _by_text(raw: RawExample) -> int | None:
    answers = raw.texts[1:]
    return answers.index(raw.label) if raw.label in answers else None


def _by_index(raw: RawExample) -> int | None:
    label = str(raw.label)
    is_index = label.isascii() and label.isdigit() and len(label) < 10
    return int(label) if is_index and int(label) < len(raw.texts) - 1 else None


def _by_letter(raw: RawExample) -> int | None:
    label = str(raw.label).upper()
    index = ord(label) - ord("A") if len(label) == 1 else -1
    return index if 0 <= index < len(raw.texts) - 1 else None
