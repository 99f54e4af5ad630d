"""The answers to choose from, and which of them is right: by the name of a choice, by index, by letter, or by text.

How labels are written is decided once, for the rows of all splits: in a single row "1" may be the first answer, the
second, or the one with the text 1.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.errors import CorpusError
from firstlight.finetuning.columns import follow, read_column
from firstlight.finetuning.examples import RawExample
from firstlight.finetuning.kinds.column_text import to_text
from firstlight.finetuning.kinds.labels import label_text
from firstlight.finetuning.spec import AnswerFormat, Columns, TaskSpec

_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_TEXT_KEYS, _LABEL_KEYS = ("text", "texts"), ("label", "labels", "key", "keys")
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Choices:
    """The answers of a row.

    Attributes:
        texts: of each answer; empty for one that is missing.
        labels: the name of each, such as A; empty where they have none.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]


def read_choices(record: Any, columns: Columns, where: str) -> Choices:
    """Read the answers of a row, and their names.

    They are a column each; or one column with a list of texts, with a list of objects, with an object of texts by
    name, or with an object of a list of texts and a list of names, as ARC has it.

    Raises:
        CorpusError: there are fewer than two, or one is not text, or there is not one name for each.
    """
    column = columns.choices
    labels: Any
    if isinstance(column, list):
        values = [read_column(record, name, where) for name in column]
        labels = column if all(isinstance(name, str) for name in column) else []
    else:
        values, labels = _split_choices(read_column(record, column, where), f"{where}: column {column}")
        labels = labels or _sibling_labels(record, column, len(values), where)
    if columns.choice_labels is not None:
        labels = _as_list(read_column(record, columns.choice_labels, where))
        if not isinstance(labels, list) or len(labels) != len(values):
            raise CorpusError(
                "does not have one label per answer",
                where=f"{where}: column {columns.choice_labels}",
                found=repr(labels)[:_MAX_SHOWN],
                expected=f"a list of {len(values)}",
            )
    texts = tuple(to_text(value, column, where) for value in values)
    n = sum(map(bool, texts))
    if n < 2:
        problem = "has an empty answer, and fewer than two others" if n < len(texts) else "has fewer than two answers"
        raise CorpusError(problem, where=f"{where}: column {column}", found=repr(values)[:_MAX_SHOWN])
    return Choices(texts, tuple(label_text(label, where) or "" for label in labels))


def _split_choices(found: Any, where: str) -> tuple[list[Any], list[Any]]:
    """Return the answers that a column holds, and their names."""
    found = _as_list(found)
    if isinstance(found, dict):
        texts = next((_as_list(found[key]) for key in _TEXT_KEYS if key in found), None)
        if isinstance(texts, list):
            labels: Any = next((_as_list(found[key]) for key in _LABEL_KEYS if key in found), [])
            if labels and len(labels) != len(texts):
                raise CorpusError("does not have one label per answer", where=where, found=repr(found)[:_MAX_SHOWN])
            return texts, labels
        if _is_marked(found):
            raise CorpusError(
                "has a mark for each answer instead of its text",
                where=where,
                found=repr(found)[:_MAX_SHOWN],
                expected="an object of texts by name",
                fix="Write the answers as a list, and the right one as the label.",
            )
        return list(found.values()), list(found)
    if not isinstance(found, list):
        raise CorpusError("has fewer than two answers", where=where, found=repr(found)[:_MAX_SHOWN], expected="a list")
    if found and all(isinstance(item, dict) and "text" in item for item in found):
        key = next((key for key in _LABEL_KEYS if all(key in item for item in found)), None)
        return [item["text"] for item in found], [item[key] for item in found] if key else []
    return found, []


def _is_marked(found: dict[Any, Any]) -> bool:
    """Whether an object has the answers as its keys, and whether each is right as its values, as TruthfulQA has it."""
    marks = list(found.values())
    return all(isinstance(m, int) and m in (0, 1) for m in marks) and any(len(str(key)) > 3 for key in found)


def _sibling_labels(record: Any, column: Any, n: int, where: str) -> list[Any]:
    """Return the names that stand next to the texts, as ``choices.label`` next to ``choices.text``."""
    parent, _, last = str(column).rpartition(".")
    if not parent or last not in _TEXT_KEYS:
        return []
    table = read_column(record, parent, where) if not parent.startswith("item") else follow(record, parent, where)
    found = (
        next((_as_list(table[key]) for key in _LABEL_KEYS if key in table), None) if isinstance(table, dict) else None
    )
    return found if isinstance(found, list) and len(found) == n else []


def _as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def resolve_answer_format(spec: TaskSpec, rows: Sequence[RawExample]) -> AnswerFormat:
    """Return how the labels of all rows are written: as the task says, or the only way that fits every row.

    Raises:
        CorpusError: no way fits every row, or several do and they differ.
    """
    if spec.answer_format != "auto":
        return spec.answer_format
    rows = [raw for raw in rows if raw.label is not None]
    found = {name: [read(raw) for raw in rows] for name, read in _READERS.items()}
    if spec.columns.choice_labels is not None:
        return "choice_labels"
    fitting = [name for name, answers in found.items() if None not in answers]
    if "choice_labels" in fitting and rows:
        return "choice_labels"
    if not any(isinstance(raw.label, str) for raw in rows) and {"zero_based", "one_based"} & set(fitting):
        fitting = [name for name in fitting if name != "text"]  # a number of a JSON or Parquet file counts answers
    if not fitting:
        raise _no_format(rows, found)
    first = fitting[0]
    for name in fitting[1:]:
        differing = next((i for i in range(len(rows)) if found[name][i] != found[first][i]), None)
        if differing is not None:
            raise CorpusError(
                f"has a label that may be {_MEANINGS[first]}, or {_MEANINGS[name]}, and no other row decides",
                where=rows[differing].where,
                found=repr(rows[differing].label),
                fix=f'Set answer_format = "{first}" or "{name}" in the task.',
            )
    return first


def answer_encoder(answer_format: AnswerFormat) -> Callable[[RawExample], int]:
    """Return the function from a row to the index of its right answer; it raises CorpusError where there is none."""
    read = _READERS[answer_format]

    def encode(raw: RawExample) -> int:
        answer = None if raw.label is None else read(raw)
        if answer is None:
            raise CorpusError(
                "has no label" if raw.label is None else "has a label that is none of its answers",
                where=raw.where,
                found=repr(raw.label),
                expected=_expected(answer_format, raw),
            )
        if not raw.texts[answer + 1]:
            raise CorpusError(
                "has a right answer that is empty",
                where=raw.where,
                found=repr(raw.label),
                fix="Fix or remove that row.",
            )
        return answer

    return encode


def _no_format(rows: Sequence[RawExample], found: Mapping[AnswerFormat, Sequence[int | None]]) -> CorpusError:
    """Name a row whose label does not fit the way that most are written, and say what would."""
    best = max(found, key=lambda name: sum(answer is not None for answer in found[name]))
    first = found[best].index(None)
    mixed = all(any(found[name][i] is not None for name in found) for i in range(len(rows)))
    problem = "has a label that is none of its answers"
    fix = "Name the list of the answers' labels with choice_labels in [columns], or write all labels in one way."
    if mixed:
        n = sum(answer is not None for answer in found[best])
        problem = f"{problem} if labels are read as {_PLURALS[best]}, which fits {n:,} of {len(rows):,} rows"
    return CorpusError(
        problem,
        where=rows[first].where,
        found=repr(rows[first].label),
        expected=_expected(best, rows[first]),
        fix=fix if mixed else None,
    )


def _expected(answer_format: AnswerFormat, raw: RawExample) -> str:
    n = len(raw.texts) - 1
    return {
        "choice_labels": f"one of {', '.join(raw.choice_labels)}" if raw.choice_labels else "the label of an answer",
        "text": "the text of an answer",
        "letter": f"a letter from A to {chr(ord('A') + min(n, 26) - 1)}",
        "zero_based": f"an index from 0 to {n - 1}",
        "one_based": f"a number from 1 to {n}",
    }[answer_format]


def _by_choice_label(raw: RawExample) -> int | None:
    labels, label = raw.choice_labels, str(raw.label)
    return labels.index(label) if labels.count(label) == 1 else None


def _by_text(raw: RawExample) -> int | None:
    answers, label = raw.texts[1:], str(raw.label)
    return answers.index(label) if label in answers else None


def _by_letter(raw: RawExample) -> int | None:
    match = _LETTER.fullmatch(str(raw.label))
    return None if match is None else _nth(raw, match[1].upper(), ord(match[1].upper()) - ord("A"), "A")


def _by_index(raw: RawExample, first: int) -> int | None:
    label = str(raw.label).removesuffix(".0")  # as pandas writes whole numbers of a column that has gaps
    index = int(label) - first if label.isascii() and label.isdigit() and len(label) < 10 else -1
    return _nth(raw, label[-1:], index, str(first))


def _nth(raw: RawExample, mark: str, index: int, first: str) -> int | None:
    """Return an index if the row has such an answer.

    Args:
        raw: the row.
        mark: letter or last digit of the label.
        index: the answer that it stands for where the answers are in order.
        first: mark of the first answer; where the names of the answers end with all marks from this one on, as
            ``option_b`` and ``option_a`` do, the answer is the one whose name has the mark.
    """
    n = len(raw.texts) - 1
    if not 0 <= index < n:
        return None
    ends = [name.rstrip(").:").upper()[-1:] for name in raw.choice_labels]
    return ends.index(mark) if sorted(ends) == [chr(ord(first) + i) for i in range(n)] else index


_READERS: dict[AnswerFormat, Callable[[RawExample], int | None]] = {
    "choice_labels": _by_choice_label,
    "text": _by_text,
    "letter": _by_letter,
    "zero_based": lambda raw: _by_index(raw, 0),
    "one_based": lambda raw: _by_index(raw, 1),
}
_MEANINGS: dict[AnswerFormat, str] = {
    "choice_labels": "the label of an answer",
    "text": "the text of an answer",
    "letter": "a letter",
    "zero_based": "an index from 0",
    "one_based": "a number from 1",
}
_PLURALS: dict[AnswerFormat, str] = {
    "choice_labels": "labels of answers",
    "text": "texts of answers",
    "letter": "letters",
    "zero_based": "indices from 0",
    "one_based": "numbers from 1",
}
