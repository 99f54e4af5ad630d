"""The rows of a task: read from its files, labelled, and divided into train, valid and test."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from firstlight.errors import CorpusError, nearest
from firstlight.files import sha256
from firstlight.files.folders import list_folder
from firstlight.files.tables import TRUNCATED
from firstlight.finetuning.columns import read_column
from firstlight.finetuning.detection import detect_columns, detect_quotes, split_files
from firstlight.finetuning.examples import EncodedExample, Example, RawExample
from firstlight.finetuning.kinds import EmptyTextError, head_of, kind_of
from firstlight.finetuning.kinds.labels import label_text
from firstlight.finetuning.readers import read_records
from firstlight.finetuning.related_rows import RelatedRows
from firstlight.finetuning.remarks import (
    describe_files,
    describe_groups,
    describe_related,
    describe_rows,
    describe_templates,
)
from firstlight.finetuning.spec import Columns, TaskSpec
from firstlight.store import permute, round_keys

_MAX_LISTED = 3
_Row = TypeVar("_Row", Example, EncodedExample)


@dataclass(frozen=True, slots=True)
class TaskData:
    """The rows of a task.

    Attributes:
        spec: with the labels, or the scale, of the training rows.
        train, valid, test: rows; test may be empty.
        notes: remarks about the data, for people.
        fingerprint: SHA-256 of everything that decides the rows.
        valid_seed: of drawing the validation rows from the training rows; None where they are of other files.
    """

    spec: TaskSpec
    train: list[Example]
    valid: list[Example]
    test: list[Example]
    notes: list[str]
    fingerprint: str
    valid_seed: int | None = None


def load_task(spec: TaskSpec, *, seed: int) -> TaskData:
    """Read all rows of a task.

    Args:
        spec: the task.
        seed: of the rows that are drawn for training or validation.

    Raises:
        CorpusError: a row cannot be used; names file and line.
    """
    notes: list[str] = []
    files = split_files(spec)
    notes += describe_files(files)
    spec = detect_columns(detect_quotes(spec, files["train"], notes), files["train"][0], notes)
    dropped = Counter[str]()
    raw = {side: _read(spec, paths, side, notes, dropped) for side, paths in files.items()}
    unused = [name for name in spec.data.drop_labels if not dropped[name]]
    if unused:
        notes.append(f"no row has a label of data.drop_labels = {json.dumps(unused, ensure_ascii=False)}")
    for side, rows in raw.items():
        if not rows:
            raise CorpusError("has no rows", where=f"{spec.data.folder}: {getattr(spec.data, side)}")
    spec, splits = _label(spec, raw)
    train, valid, test = splits["train"], splits.get("valid"), splits.get("test", [])
    if head_of(spec) is not None:
        labelled = [row for row in test if row.label is not None]
        if len(labelled) < len(test):
            notes.append(f"{len(test) - len(labelled):,} test rows have no label and are left out")
        test = labelled
    if spec.max_train_rows is not None and spec.max_train_rows < len(train):
        order = permute(np.arange(spec.max_train_rows), len(train), round_keys(seed, "rows", spec.name))
        train = [train[i] for i in sorted(order.tolist())]
    drawn = valid is None
    everything = [*train, *(valid or ()), *test]
    related = RelatedRows.of(spec, everything)
    number_of = {id(row): i for i, row in enumerate(everything)}
    if valid is None:
        groups = related.groups(len(train), max_rows=max(1, round(spec.valid_ratio * len(train))))
        train, valid = split(train, spec.valid_ratio, seed, groups)
        if not valid:
            raise CorpusError(
                "has too few rows to take validation rows from",
                where=f"{spec.data.folder}: {spec.data.train}",
                found=len(train),
                expected="at least two rows of one label",
                fix="Name a file in data.valid.",
            )
        notes.append(f"{len(valid):,} training rows became validation rows, in proportion to their labels")
        notes += describe_groups(groups, {number_of[id(row)] for row in valid})
        notes += describe_templates(related.common)
    numbers = [number_of[id(row)] for row in train]
    for side, others in (("validation", valid), ("test", test)):
        found = related.matches(numbers, [number_of[id(row)] for row in others])
        pairs = [(everything[i], everything[other]) for i, other in found.items()]
        notes += describe_related(side, pairs, len(others))
    notes += describe_rows(spec, train, valid, test)
    return TaskData(spec, train, valid, test, notes, _fingerprint(spec, files, seed), seed if drawn else None)


def changed_tables(spec: TaskSpec, fingerprint: str, *, seed: int) -> bool | None:
    """Return whether the files of a task differ from those of a fingerprint; None where a file is not there.

    Args:
        spec: with the labels, or the scale, of the training rows.
        fingerprint: of its ``TaskData``.
        seed: as for ``load_task``.
    """
    try:
        return _fingerprint(spec, split_files(spec), seed) != fingerprint
    except (CorpusError, OSError):
        return None


def read_unlabelled(spec: TaskSpec, path: Path) -> Iterator[Example]:
    """Read the rows of another file in the task's format, without labels.

    A row without text has no texts where the task drops such rows, so that none is lost.

    Raises:
        CorpusError: a row cannot be read.
    """
    if not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise CorpusError("no such file", where=path, fix=near and f"Did you mean {path.parent / near}?")
    inputs, columns = kind_of(spec).inputs, _columns(spec)
    for where, record in read_records(path, spec.data):
        if record is TRUNCATED:
            raise CorpusError("is cut off", where=where, fix="Complete the last row, or remove it.")
        _check_leading_label(spec, record, where)
        try:
            texts, roles = inputs.read(record, columns, where)
        except EmptyTextError:
            if spec.data.on_empty == "error":
                raise
            texts, roles = (), ()
        yield Example(texts, None, where, roles)


def split(
    rows: Sequence[_Row], ratio: float, seed: int, groups: Int[np.ndarray, " N"] | None = None
) -> tuple[list[_Row], list[_Row]]:
    """Take a fraction of each label's rows, at least one of those with two or more, as validation rows.

    Args:
        rows: with labels.
        ratio: fraction of the rows.
        seed: of the choice.
        groups: the number of each row's group. A group stays together, and is left in the training rows where the
            validation rows have no room for it; a label that thereby has less than half of its validation rows takes
            the group that exceeds them least, or if all are too large, single rows.
    """
    by_label: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        by_label.setdefault(_label_key(row), []).append(i)
    target: dict[Any, int] = {}
    place = [0] * len(rows)  # of a row in the order of its label
    for key, members in by_label.items():
        target[key] = min(len(members) - 1, max(1, round(ratio * len(members))))  # at least one stays in train
        order = permute(np.arange(len(members)), len(members), round_keys(seed, "valid", key))
        for position, i in enumerate(order.tolist()):
            place[members[i]] = position
    by_group: dict[int, list[int]] = {}
    for i, group in enumerate(range(len(rows)) if groups is None else groups.tolist()):
        by_group.setdefault(group, []).append(i)
    chosen: set[int] = set()
    taken = Counter[Any]()
    left = []
    for members in sorted(by_group.values(), key=lambda members: place[members[0]]):
        needed = Counter(_label_key(rows[i]) for i in members)
        if all(taken[key] + n <= target[key] for key, n in needed.items()):
            chosen.update(members)
            taken += needed
        else:
            left.append((members, needed))
    while (large := _least_excess(left, taken, target, by_label)) is not None:
        members, needed = left.pop(large)
        chosen.update(members)
        taken += needed
    for key, members in by_label.items():
        if 2 * taken[key] < target[key]:
            single = sorted((i for i in members if i not in chosen), key=lambda i: place[i])
            chosen.update(single[: target[key] - taken[key]])
    return [r for i, r in enumerate(rows) if i not in chosen], [r for i, r in enumerate(rows) if i in chosen]


def _least_excess(
    groups: Sequence[tuple[list[int], Counter[Any]]],
    taken: Counter[Any],
    target: Mapping[Any, int],
    by_label: Mapping[Any, Sequence[int]],
) -> int | None:
    """Return the place of the group to add to the validation rows; None where no label needs one, or none is allowed.

    At most half of the rows of a label become validation rows, and in all half more than were asked for.
    """
    short = {key for key, n in target.items() if 2 * taken[key] < n}
    if not short:
        return None
    limit = 1.5 * sum(target.values()) - taken.total()
    best: tuple[int, int] | None = None
    for place, (members, needed) in enumerate(groups):
        if not short & needed.keys() or len(members) > limit:
            continue
        if any(taken[key] + n > max(target[key], len(by_label[key]) // 2) for key, n in needed.items()):
            continue
        excess = sum(max(0, taken[key] + n - target[key]) for key, n in needed.items())
        if best is None or excess < best[0]:
            best = (excess, place)
    return None if best is None else best[1]


def _label_key(row: Example | EncodedExample) -> int | None:
    """Return the class of a row; None where rows are not split by it."""
    return row.label if isinstance(row.label, int) else None


def _read(
    spec: TaskSpec, paths: Sequence[Path], side: str, notes: list[str], dropped: Counter[str]
) -> list[RawExample]:
    """Read the rows of a split; notes get remarks about them, and ``dropped`` counts the labels of those left out."""
    inputs, head, columns = kind_of(spec).inputs, head_of(spec), _columns(spec)
    found, empty, unused, n_before = [], [], Counter[str](), dropped.total()
    for path in paths:
        for where, record in read_records(path, spec.data):
            if record is TRUNCATED:
                notes.append(f"{where}: the last row is cut off and left out")
                continue
            try:
                value = None if head is None or columns.label is None else read_column(record, columns.label, where)
                texts, roles = inputs.read(record, columns, where)
                label = None if head is None else head.read_label(value, texts, where)
                # An empty name stands for a missing label; test rows without one are left out anyway.
                name = "" if label is None else str(label)
                if head is not None and name in spec.data.drop_labels and (name or side != "test"):
                    dropped[name] += 1
                    continue
                unused.update(inputs.unused_keys(record, columns))
                choice_labels = inputs.read_choice_labels(record, columns, where)
                found.append(RawExample(texts, label, where, roles, choice_labels))
            except EmptyTextError:
                if spec.data.on_empty == "error":
                    raise
                empty.append(where)
    if empty:
        notes.append(f"{len(empty):,} rows without text are left out: {', '.join(empty[:_MAX_LISTED])}")
    if dropped.total() > n_before:
        notes.append(f"{dropped.total() - n_before:,} rows whose label is in data.drop_labels are left out")
    if unused:
        keys = ", ".join(f"{key} ({n:,} rows)" for key, n in unused.most_common(_MAX_LISTED))
        notes.append(f"keys of messages that are not used: {keys}")
    if head is not None and head.is_per_token and found and all(len(row.texts) == 1 for row in found):
        raise CorpusError(
            "has one word, as every other row, so no word has a context",
            where=found[0].where,
            expected="the words of a sentence in one row",
            fix='Set data.format = "conll" where a blank line ends each sentence, else write each sentence as one row, '
            "as JSON lines with a list of words and a list of labels.",
        )
    return found


def _columns(spec: TaskSpec) -> Columns:
    """Return the columns of a task; a folder per label has the same two for every task."""
    columns = spec.columns
    if spec.data.format != "folders":
        return columns
    return columns.model_copy(update={"text": columns.text or "text", "label": columns.label or "label"})


def _label(spec: TaskSpec, raw: dict[str, list[RawExample]]) -> tuple[TaskSpec, dict[str, list[Example]]]:
    """Complete the task's labels, and encode those of every row; only test rows may lack one."""
    head = head_of(spec)
    if head is None:
        return spec, {side: [Example(r.texts, None, r.where, r.roles) for r in rows] for side, rows in raw.items()}
    train = raw["train"]
    if spec.columns.label is None and spec.data.format != "folders" and train[0].label is None:
        raise CorpusError("names no column for the label", where=spec.name, fix="Set label in [columns].")
    spec, encode = head.fit_labels(spec, train, [row for rows in raw.values() for row in rows])
    splits = {}
    for side, rows in raw.items():
        labels = [None if side == "test" and row.label is None else encode(row) for row in rows]
        splits[side] = [
            Example(row.texts, label, row.where, row.roles) for row, label in zip(rows, labels, strict=True)
        ]
    return spec, splits


def _check_leading_label(spec: TaskSpec, record: Any, where: str) -> None:
    """Refuse an unlabelled line where labels come first: its first word would be taken for one, and be lost."""
    column = spec.columns.label
    if spec.data.max_fields is None or not isinstance(record, list) or not spec.label_values or column is None:
        return
    found = label_text(read_column(record, column, where), where)
    if found not in spec.label_values:
        raise CorpusError(
            "has no label where the task's lines have one, so words of its text would be lost",
            where=where,
            found=found,
            expected=f"one of {', '.join(spec.label_values)}"[:300],
            fix="Put any of the labels there.",
        )


def _fingerprint(spec: TaskSpec, files: Mapping[str, Sequence[Path]], seed: int) -> str:
    table = spec.model_dump(mode="json")
    # Where the files are, and whether they can be read and learned.
    for name in ("folder", "follow_symlinks", "skip", "limits", "max_unk_fraction"):
        table["data"].pop(name)
    # Unset, these do not change the fingerprints of runs from before they existed.
    unset_values: tuple[tuple[dict[str, Any], str, Any], ...] = (
        (table["data"], "drop_labels", []),
        (table["data"], "decimal", "."),
        (table["columns"], "choice_labels", None),
    )
    for part, name, unset in unset_values:
        if part[name] == unset:
            part.pop(name)
    if table["answer_format"] == "auto":
        table.pop("answer_format")
    digest = hashlib.sha256(json.dumps([table, seed], sort_keys=True).encode())
    for paths in files.values():
        for path in paths:
            inside = (
                list_folder(path, follow_symlinks=spec.data.follow_symlinks, skip=False).files
                if path.is_dir()
                else [path]
            )
            for file in inside:
                digest.update(sha256(file).encode() if file.is_file() else str(file).encode())
    return digest.hexdigest()
