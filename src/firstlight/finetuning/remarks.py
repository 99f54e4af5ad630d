"""Remarks about the rows of a task, for people: what may be wrong with files that could be read."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
from jaxtyping import Int

from firstlight.finetuning.examples import Example
from firstlight.finetuning.kinds import head_of
from firstlight.finetuning.kinds.labels import is_number
from firstlight.finetuning.spec import TaskSpec

_MAX_LISTED = 3
_MAX_SHOWN = 60  # characters of a text
_FEW = 0.01  # fraction of related rows that hardly changes a score
_NO_VALUE = ("nan", "<na>", "none", "null", "n/a", "na")  # as programs write a missing value of a table
_NO_LABEL = (*_NO_VALUE, "unsup", "unlabeled", "unlabelled")  # unsup: of the reviews of IMDb
# As str() writes bytes, lists and tables; a list of the second kind may also hold numbers, with commas or not.
_PRINTED = re.compile(r"""b'.*'|b".*"|\[(?:'.*'|".*")\]|\{'.*\}""", re.DOTALL)
_PRINTED_LIST = re.compile(r"\[.*[\s,].*\]", re.DOTALL)
_NO_NUMBER = ("-1", "-100")  # -100: what transformers leaves out of the loss


def describe_files(files: Mapping[str, Sequence[Path]]) -> list[str]:
    """Report files that are named more than once for one split, whose rows count as often."""
    notes = []
    for paths in files.values():
        twice = [path for path, n in Counter(path.absolute() for path in paths).items() if n > 1]
        if twice:
            notes.append(f"{_list(twice)}: named more than once, so its rows count as often")
    return notes


def describe_groups(groups: Int[np.ndarray, " N"], valid: Set[int]) -> list[str]:
    """Report how many training rows belong together, of which validation rows were taken.

    Args:
        groups: the number of each row's group.
        valid: the numbers of the rows that became validation rows.
    """
    values, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n = int((sizes > 1).sum())
    if not n:
        return []
    in_valid = np.bincount(members, weights=[i in valid for i in range(len(groups))], minlength=len(values))
    apart = int(((in_valid > 0) & (in_valid < sizes)).sum())
    related = (
        f"{sizes[sizes > 1].sum():,} of {len(groups):,} rows share a text with another one, or nearly "
        f"({n:,} {'group' if n == 1 else 'groups'}): the rows of a group stay on one side of the split"
    )
    if not apart:
        return [related]
    return [f"{related}, but those of {apart:,} that {'is' if apart == 1 else 'are'} too large for the validation rows"]


def describe_templates(common: Counter[str]) -> list[str]:
    """Report texts that too many rows have for them to stay on one side of the split."""
    if not common:
        return []
    texts = ", ".join(f"{text[:_MAX_SHOWN]!r} ({n:,} rows)" for text, n in common.most_common(_MAX_LISTED))
    return [
        f"texts that stand in many rows are taken for templates, and those rows for unrelated: {texts}; where the "
        "answer depends on such a text, name validation rows with other ones in data.valid"
    ]


def describe_related(side: str, pairs: Sequence[tuple[Example, Example]], n_rows: int) -> list[str]:
    """Report rows that share a text with a training row; whole rows that are equal are reported elsewhere.

    Args:
        side: validation or test.
        pairs: rows of that side, each with a training row.
        n_rows: of that side.
    """
    related = [(row, other) for row, other in pairs if row.texts != other.texts]
    if len(related) <= _FEW * n_rows:
        return []
    where = _list([f"{row.where} with {other.where}" for row, other in related])
    return [
        f"{len(related):,} of {n_rows:,} {side} rows share a text with a training row, or nearly, which may raise "
        f"their score: {where}"
    ]


def describe_rows(
    spec: TaskSpec, train: Sequence[Example], valid: Sequence[Example], test: Sequence[Example]
) -> list[str]:
    """Report duplicates of training rows, texts and classes that may be missing ones, and how many rows there are."""
    notes = []
    seen = {row.texts: row.where for row in train}
    for side, rows in (("validation", valid), ("test", test)):
        duplicates = [row for row in rows if row.texts in seen]
        if duplicates:
            pairs = _list([f"{row.where} is {seen[row.texts]}" for row in duplicates])
            are = "is also a training row" if len(duplicates) == 1 else "are also training rows"
            notes.append(f"{len(duplicates):,} of {len(rows):,} {side} rows {are}: {pairs}")
    size = f"{len(train):,} training, {len(valid):,} validation, {len(test):,} test rows"
    rows = [*train, *valid, *test]
    empty = [row.where for row in rows if not row.roles and not all(row.texts)]
    if empty:
        notes.append(f"{len(empty):,} rows have an empty answer, which is left out: {_list(empty)}")
    head = head_of(spec)
    is_per_token = head is not None and head.is_per_token
    missing = [] if is_per_token else [r.where for r in rows if any(text.lower() in _NO_VALUE for text in r.texts)]
    if missing:
        notes.append(f"{len(missing):,} rows have a text such as nan, null or NA, which is learned: {_list(missing)}")
    printed = [] if is_per_token else [row.where for row in rows if any(map(_PRINTED.fullmatch, row.texts))]
    if printed:
        notes.append(f"{len(printed):,} rows have a text that Python printed, such as b'…' or ['…']: {_list(printed)}")
    if head is None or not head.has_classes:
        return [*notes, size]
    notes += _describe_contradictions(spec, train, is_per_token=is_per_token)
    counts = Counter(c for r in train for c in (r.label if isinstance(r.label, tuple) else (r.label,)))
    notes += _describe_classes(spec, counts, is_per_token=is_per_token)
    if not is_per_token:
        notes += _describe_unvalidated(spec, counts, valid)
        fractions = ", ".join(f"{name} {counts[i] / len(train):.1%}" for i, name in enumerate(spec.labels[:12]))
        size = f"{size}; {fractions}"
    return [*notes, size]


def _describe_contradictions(spec: TaskSpec, train: Sequence[Example], *, is_per_token: bool) -> list[str]:
    """Report training rows with the texts of an earlier one and another label."""
    first: dict[tuple[str, ...], Example] = {}
    found = [(first[row.texts], row) for row in train if first.setdefault(row.texts, row).label != row.label]
    if not found:
        return []

    def describe(row: Example) -> str:
        return row.where if is_per_token else f"{row.where} ({spec.labels[int(row.label)]})"  # type: ignore[arg-type]

    pairs = [f"{describe(one)} and {describe(other)}" for one, other in found]
    return [f"{len(found):,} training rows have the text of an earlier one and another label: {_list(pairs)}"]


def _describe_classes(spec: TaskSpec, counts: Counter[int | float | None], *, is_per_token: bool) -> list[str]:
    """Report classes that stand for a missing label, and those that are written in two ways."""
    notes, twice, lists = [], [], []
    written: dict[str, str] = {}
    for i, value in enumerate(spec.label_values):
        n = counts[i]
        # A tag of a word may be punctuation, as in the Penn Treebank.
        is_mark = not is_per_token and not any(c.isalnum() for c in value)
        if n and (is_mark or value in _NO_NUMBER or value.lower() in _NO_LABEL):
            note = f"the class {value!r} ({n:,} training {'words' if is_per_token else 'rows'}) may stand for a missing"
            advice = f"leave its rows out with data.drop_labels = {json.dumps([value], ensure_ascii=False)}"
            notes.append(f"{note} label" if is_per_token else f"{note} label: {advice}")
        if _PRINTED_LIST.fullmatch(value):
            lists.append(repr(value))
        same = written.setdefault(_fold(value), value)
        if same != value and n and not is_per_token:
            twice.append(f"{same!r} and {value!r}")
    if twice:
        notes.append(f"classes that may be one, written in two ways: {_list(twice)}")
    if lists:
        notes.append(f"a row has one class, so each of these lists is a class of its own: {_list(lists)}")
    return notes


def _describe_unvalidated(spec: TaskSpec, counts: Counter[int | float | None], valid: Sequence[Example]) -> list[str]:
    """Report classes that no validation row has."""
    validated = {row.label for row in valid}
    alone = [(name, counts[i]) for i, name in enumerate(spec.labels) if counts[i] and i not in validated]
    if not alone:
        return []
    names = ", ".join(f"{name!r} ({n:,} training rows)" for name, n in alone[:_MAX_LISTED])
    more = f" and {len(alone) - _MAX_LISTED:,} others" if len(alone) > _MAX_LISTED else ""
    return [
        f"no validation row has the class {names}{more}, so it is learned and never measured: add rows of it, or "
        "leave it out with data.drop_labels"
    ]


def _fold(value: str) -> str:
    """Return a label without what tells apart two ways to write it: case, Unicode form, quotes, zeros, white space."""
    text = " ".join(unicodedata.normalize("NFKC", value).casefold().strip("'\"").split())
    text = {"true": "1", "false": "0"}.get(text, text)
    return str(float(text)) if is_number(text) else text


def _list(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:_MAX_LISTED])) + (" …" if len(names) > _MAX_LISTED else "")
