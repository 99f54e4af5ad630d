"""Labels of a task: found in the training rows, checked, and turned into what a head learns."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from firstlight.errors import CorpusError, nearest
from firstlight.finetuning.spec import TaskSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Raw:
    """A row whose label is still as the file has it."""

    texts: tuple[str, ...]
    label: Any
    where: str
    roles: tuple[str, ...] = ()


def plain(value: Any, where: str) -> str | None:
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


def with_labels(spec: TaskSpec, train: Sequence[Raw]) -> TaskSpec:
    """Fill in the labels, or the scale, that the training rows have.

    Raises:
        CorpusError: there is nothing to learn: no label, or the same one everywhere.
    """
    if not spec.has_head or spec.kind == "choice":
        return spec
    if spec.columns.label is None and spec.data.format != "folders" and train[0].label is None:
        raise CorpusError("names no column for the label", where=spec.name, fix="Set label in [columns].")
    if spec.scored:
        if spec.scale is not None:
            return spec
        scores = [_score(raw) for raw in train]
        if min(scores) == max(scores):
            raise CorpusError("has one score only", where=train[0].where, found=scores[0])
        return spec.model_copy(update={"scale": (min(scores), max(scores))})
    seen = {v for raw in train for v in (raw.label if isinstance(raw.label, tuple) else (raw.label,))} - {None}
    if not seen:
        raise CorpusError("has no label, nor has any other row", where=train[0].where, fix="Set label in [columns].")
    if len(seen) == 1:
        raise CorpusError(
            "has one label only, so there is nothing to tell apart", where=train[0].where, found=seen.pop()
        )
    in_order = sorted(seen, key=lambda v: (0, float(v), "") if _is_number(v) else (1, 0.0, v))
    values = spec.values or spec.labels or in_order
    return spec.model_copy(update={"values": list(values), "labels": list(spec.labels or values)})


def label_of(spec: TaskSpec, raw: Raw, read: "Reading", *, must: bool) -> int | float | tuple[int, ...] | None:
    """Return what a head learns from a row.

    Args:
        spec: with its labels.
        raw: the row.
        read: how the task's files give right answers; of choice tasks alone.
        must: whether a row without a label is an error.

    Raises:
        CorpusError: the label is missing, or is none of the task's.
    """
    if not spec.has_head or (raw.label is None and not must):
        return None
    if spec.scored:
        return _score(raw)
    if spec.kind == "choice":
        return _right_answer(raw, read)
    if isinstance(raw.label, tuple):
        return tuple(_class(spec, value, raw.where) for value in raw.label)
    return _class(spec, raw.label, raw.where)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _score(raw: Raw) -> float:
    if raw.label is None or not _is_number(raw.label):
        raise CorpusError("is no score", where=raw.where, found=repr(raw.label), expected="a number")
    return float(raw.label)


def _class(spec: TaskSpec, value: Any, where: str) -> int:
    if value in spec.values:
        return spec.values.index(value)
    near = nearest(str(value), spec.values)
    raise CorpusError(
        "has a label that the task does not know" if value is not None else "has no label",
        where=where,
        found=value,
        expected=f"one of {', '.join(spec.values)}"[:300],
        fix=f"Did you mean {near!r}?" if near else None,
    )


Reading = Callable[[Raw], int | None]


def _as_text(raw: Raw) -> int | None:
    answers = raw.texts[1:]
    return answers.index(raw.label) if raw.label in answers else None


def _as_number(raw: Raw) -> int | None:
    label = str(raw.label)
    return int(label) if label.isascii() and label.isdigit() and int(label) < len(raw.texts) - 1 else None


def _as_letter(raw: Raw) -> int | None:
    label = str(raw.label).upper()
    number = ord(label) - ord("A") if len(label) == 1 else -1
    return number if 0 <= number < len(raw.texts) - 1 else None


def reading(rows: Iterable[Raw]) -> Reading:
    """Return how choice rows give the right answer: by number, text or letter.

    One row cannot tell: among the answers "1" and "2" the label 1 may mean either. A number of a JSON or parquet file
    counts from 0. For words, the first of text, number and letter that fits every row is meant in all of them.
    """
    words = [raw for raw in rows if isinstance(raw.label, str)]
    ways = (_as_text, _as_number, _as_letter)
    fitting = [way for way in ways if all(way(raw) is not None for raw in words)]

    def read(raw: Raw) -> int | None:
        if isinstance(raw.label, int):
            return _as_number(raw)
        return next((n for n in (way(raw) for way in fitting or ways) if n is not None), None)

    return read


def _right_answer(raw: Raw, read: Reading) -> int:
    number = read(raw)
    if number is None:
        raise CorpusError(
            "has a label that is none of its answers" if raw.label is not None else "has no label",
            where=raw.where,
            found=repr(raw.label),
            expected=f"a number from 0 to {len(raw.texts) - 2}, a letter, or an answer",
        )
    return number
