"""Rows of a task: its columns read, its labels found and checked, its splits made."""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import CorpusError, nearest
from firstlight.files import sha256
from firstlight.store import keys, permute
from firstlight.tasks.records import CUT, field, records, resolve_names
from firstlight.tasks.spec import TaskSpec

_SHOWN = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One row.

    Attributes:
        texts: (text,); or (first, second); or (question, answer, answer …); or words; or what each turn of a chat says.
        label: a class; a score; the number of the right answer; a class a word; None where there is none.
        where: ``file:line``.
        roles: of a chat, who says each text.
    """

    texts: tuple[str, ...]
    label: int | float | tuple[int, ...] | None
    where: str
    roles: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class TaskData:
    """The rows of a task.

    Attributes:
        spec: with the labels and the scale that were found.
        train, valid, test: rows; test may be empty.
        notes: what was noticed, for people.
        fingerprint: SHA-256 of what decides the rows.
    """

    spec: TaskSpec
    train: list[Example]
    valid: list[Example]
    test: list[Example]
    notes: list[str]
    fingerprint: str


class _EmptyError(CorpusError):
    """A row without text."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Raw:
    """A row whose label is still as the file has it."""

    texts: tuple[str, ...]
    label: Any
    where: str
    roles: tuple[str, ...] = ()


def read_task(spec: TaskSpec, *, seed: int) -> TaskData:
    """Read all rows of a task.

    Args:
        spec: the task.
        seed: of the rows that are kept or become valid ones.

    Raises:
        CorpusError: a row cannot be used; names file and line.
    """
    notes: list[str] = []
    sides = {
        side: _read(spec, resolve_names(spec.data, names), notes)
        for side, names in (("train", spec.data.train), ("valid", spec.data.valid), ("test", spec.data.test))
        if names is not None
    }
    if not sides["train"]:
        raise CorpusError("has no rows", where=f"{spec.data.folder}: {spec.data.train}")
    spec = _with_labels(spec, sides["train"])
    made = {side: [_labelled(spec, raw, must=side != "test") for raw in raws] for side, raws in sides.items()}
    train, test = made["train"], [e for e in made.get("test", []) if e.label is not None or not spec.has_head]
    if len(test) < len(made.get("test", [])):
        notes.append(f"{len(made['test']) - len(test):,} test rows have no label and are left out")
    if spec.max_rows is not None and spec.max_rows < len(train):
        order = permute(np.arange(spec.max_rows), len(train), keys(seed, "rows", spec.name))
        train = [train[i] for i in sorted(order.tolist())]
    valid = made.get("valid")
    if valid is None:
        train, valid = split(train, spec.valid_ratio, seed)
        notes.append(f"{len(valid):,} rows of train became valid rows, label by label")
    notes += _noticed(spec, train, valid, test)
    return TaskData(spec, train, valid, test, notes, _fingerprint(spec, seed))


def read_inputs(spec: TaskSpec, path: Path) -> Iterator[Example]:
    """Yield the rows of another file in the task's format, without labels.

    Raises:
        CorpusError: a row cannot be read.
    """
    if not path.exists():
        raise CorpusError("no such file", where=path)
    bare = spec.model_copy(update={"columns": spec.columns.model_copy(update={"label": None})})
    for where, record in records(path, spec.data):
        if record == CUT:
            raise CorpusError("is cut off", where=where, fix="Mend the last row.")
        raw = _raw(bare, record, where)
        yield Example(raw.texts, None, where, raw.roles)


def _read(spec: TaskSpec, paths: Sequence[Path], notes: list[str]) -> list[_Raw]:
    found, empty = [], []
    for path in paths:
        for where, record in records(path, spec.data):
            if record == CUT:
                notes.append(f"{where}: the last row is cut off and left out")
                continue
            try:
                found.append(_raw(spec, record, where))
            except _EmptyError:
                if spec.data.empty == "error":
                    raise
                empty.append(where)
    if empty:
        notes.append(f"{len(empty):,} rows without text are left out: {', '.join(empty[:_SHOWN])}")
    return found


def _raw(spec: TaskSpec, record: Any, where: str) -> _Raw:
    columns = spec.columns
    if spec.data.format == "folders" or (isinstance(record, dict) and columns.text is None and "text" in record):
        columns = columns.model_copy(update={"text": columns.text or "text", "label": columns.label or "label"})
    label = None if columns.label is None else _label_of(record, columns.label, where)
    if spec.kind == "choice":
        return _Raw((_text(record, columns.question, where), *_choices(record, columns.choices, where)), label, where)
    if spec.kind == "tokens":
        words = field(record, columns.tokens if columns.tokens is not None else 0, where)
        words = words.split() if isinstance(words, str) else words
        labels = label.split() if isinstance(label, str) else label
        if not words or not all(isinstance(w, str) and w for w in words):
            raise CorpusError("has no words, or an empty one", where=where)
        if labels is not None and len(labels) != len(words):
            raise CorpusError("has not one label a word", where=where, found=len(labels), expected=len(words))
        # A space before each word but the first, as byte-level BPE has them within a text.
        spaced = tuple(w if i == 0 else f" {w}" for i, w in enumerate(words))
        return _Raw(spaced, None if labels is None else tuple(map(_plain, labels)), where)
    if spec.kind == "chat" and columns.messages is not None:
        return _chat(field(record, columns.messages, where), where)
    texts = [_text(record, columns.text, where)]
    if columns.text2 is not None and spec.kind in ("pair", "similarity", "chat"):
        texts.append(_text(record, columns.text2, where))
    return _Raw(tuple(texts), label, where, ("user", "assistant") if spec.kind == "chat" else ())


def _label_of(record: Any, column: Any, where: str) -> Any:
    value = field(record, column, where)
    return value if isinstance(value, list) else _plain(value)


def _plain(value: Any) -> Any:
    """Return a label as text, whole numbers without a point, so that 1, 1.0 and "1" are one label."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text or None


def _text(record: Any, column: Any, where: str) -> str:
    columns = column if isinstance(column, list) else [column]
    parts = []
    for name in columns:
        value = field(record, name, where)
        parts.append("\n".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value))
    text = "\n".join(part.strip() for part in parts if part.strip())
    if not text:
        raise _EmptyError(
            "is empty", where=f"{where}: column {column}", fix='Fill or remove that row, or set data.empty = "drop".'
        )
    return text


def _choices(record: Any, column: Any, where: str) -> list[str]:
    found = (
        [field(record, name, where) for name in column] if isinstance(column, list) else field(record, column, where)
    )
    if not isinstance(found, list) or len(found) < 2:
        raise CorpusError("has fewer than two answers", where=f"{where}: column {column}", found=repr(found)[:80])
    answers = [str(answer).strip() for answer in found]
    if not all(answers):
        raise CorpusError("has an empty answer", where=f"{where}: column {column}")
    return answers


def _chat(messages: Any, where: str) -> _Raw:
    try:
        pairs = [(str(m["role"]), str(m["content"])) for m in messages]
    except (TypeError, KeyError) as error:
        raise CorpusError("is no list of {role, content}", where=where, found=repr(messages)[:80]) from error
    known = ("system", "user", "assistant")
    odd = next((role for role, _ in pairs if role not in known), None)
    if odd is not None:
        raise CorpusError("has an unknown role", where=where, found=odd, expected=", ".join(known))
    if not any(role == "assistant" and text.strip() for role, text in pairs):
        raise CorpusError("has nothing that the assistant says, so nothing to learn", where=where)
    return _Raw(tuple(text for _, text in pairs), None, where, tuple(role for role, _ in pairs))


def _with_labels(spec: TaskSpec, train: Sequence[_Raw]) -> TaskSpec:
    """Fill in the labels, or the scale, that the training rows have."""
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
    values = spec.values or spec.labels
    if not values:
        seen = {v for raw in train for v in (raw.label if isinstance(raw.label, tuple) else (raw.label,))} - {None}
        values = sorted(seen, key=lambda v: (0, float(v), "") if _is_number(v) else (1, 0.0, v))
    if len(values) < 2:
        raise CorpusError("has one label only, so there is nothing to tell apart", where=train[0].where, found=values)
    return spec.model_copy(update={"values": list(values), "labels": list(spec.labels or values)})


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _score(raw: _Raw) -> float:
    if raw.label is None or not _is_number(raw.label):
        raise CorpusError("is no score", where=raw.where, found=repr(raw.label), expected="a number")
    return float(raw.label)


def _labelled(spec: TaskSpec, raw: _Raw, *, must: bool) -> Example:
    label: Any = None
    if spec.has_head and (must or raw.label is not None):
        if spec.scored:
            label = _score(raw)
        elif spec.kind == "choice":
            label = _right_answer(raw)
        elif isinstance(raw.label, tuple):
            label = tuple(_class(spec, value, raw.where) for value in raw.label)
        else:
            label = _class(spec, raw.label, raw.where)
    return Example(raw.texts, label, raw.where, raw.roles)


def _class(spec: TaskSpec, value: Any, where: str) -> int:
    if value in spec.values:
        return spec.values.index(value)
    near = nearest(str(value), spec.values)
    raise CorpusError(
        "has a label that the task does not know" if value is not None else "has no label", where=where, found=value,
        expected=f"one of {', '.join(spec.values)}"[:300], fix=f"Did you mean {near!r}?" if near else None,
    )  # fmt: skip


def _right_answer(raw: _Raw) -> int:
    """Return the number of the right answer, which the file gives as number, letter or text."""
    answers, label = raw.texts[1:], raw.label
    if label in answers:
        return answers.index(label)
    if label is not None and label.isdigit() and int(label) < len(answers):
        return int(label)
    if label is not None and len(label) == 1 and 0 <= ord(label.upper()) - ord("A") < len(answers):
        return ord(label.upper()) - ord("A")
    raise CorpusError(
        "has a label that is none of its answers", where=raw.where, found=repr(label),
        expected=f"a number from 0 to {len(answers) - 1}, a letter, or an answer",
    )  # fmt: skip


def split(rows: Sequence[Example], ratio: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Take a share of each label's rows, at least one of those with two or more, as valid rows."""
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        key = row.label if isinstance(row.label, int) else None
        groups.setdefault(key, []).append(i)
    chosen: set[int] = set()
    for key, members in groups.items():
        n = max(1, round(ratio * len(members))) if len(members) > 1 else 0
        order = permute(np.arange(n), len(members), keys(seed, "valid", key))
        chosen |= {members[place] for place in order.tolist()}
    return [r for i, r in enumerate(rows) if i not in chosen], [r for i, r in enumerate(rows) if i in chosen]


def _noticed(spec: TaskSpec, train: Sequence[Example], valid: Sequence[Example], test: Sequence[Example]) -> list[str]:
    notes = []
    seen = {row.texts: row.where for row in train}
    for side, rows in (("valid", valid), ("test", test)):
        again = [row for row in rows if row.texts in seen]
        if again:
            pairs = ", ".join(f"{row.where} is {seen[row.texts]}" for row in again[:_SHOWN])
            notes.append(f"{len(again):,} of {len(rows):,} {side} rows are training rows too: {pairs}")
    if spec.kind in ("classification", "pair") and not spec.scored:
        counts = Counter(row.label for row in train)
        shares = ", ".join(f"{name} {counts[i] / len(train):.1%}" for i, name in enumerate(spec.labels[:12]))
        notes.append(f"{len(train):,} training, {len(valid):,} valid, {len(test):,} test rows; {shares}")
    else:
        notes.append(f"{len(train):,} training, {len(valid):,} valid, {len(test):,} test rows")
    return notes


def _fingerprint(spec: TaskSpec, seed: int) -> str:
    table = spec.model_dump(mode="json")
    table["data"].pop("folder")
    digest = hashlib.sha256(json.dumps([table, seed], sort_keys=True).encode())
    for names in (spec.data.train, spec.data.valid, spec.data.test):
        for path in resolve_names(spec.data, names) if names is not None else ():
            inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for file in inside:
                digest.update(sha256(file).encode() if file.is_file() else str(file).encode())
    return digest.hexdigest()
