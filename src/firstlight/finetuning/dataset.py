"""Rows of a task: its columns read, its labels found and checked, its splits made."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import CorpusError
from firstlight.files import sha256
from firstlight.finetuning.labels import Raw, label_of, plain, reading, with_labels
from firstlight.finetuning.readers import CUT, field, records, resolve_names
from firstlight.finetuning.spec import TaskSpec
from firstlight.store import permute, round_keys

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


def load_task(spec: TaskSpec, *, seed: int) -> TaskData:
    """Read all rows of a task.

    Args:
        spec: the task.
        seed: of the rows that are kept or become valid ones.

    Raises:
        CorpusError: a row cannot be used; names file and line.
    """
    notes: list[str] = []
    sides = {
        side: _read(spec, resolve_names(spec.data, names, side), notes)
        for side, names in (("train", spec.data.train), ("valid", spec.data.valid), ("test", spec.data.test))
        if names is not None
    }
    for side, raws in sides.items():
        if not raws:
            raise CorpusError("has no rows", where=f"{spec.data.folder}: {getattr(spec.data, side)}")
    declared, spec = spec, with_labels(spec, sides["train"])
    read = reading([raw for raws in sides.values() for raw in raws] if spec.kind == "choice" else ())
    made = {
        side: [Example(r.texts, label_of(spec, r, read, must=side != "test"), r.where, r.roles) for r in raws]
        for side, raws in sides.items()
    }
    if declared.scored and declared.scale is not None:
        _check_scale(declared.scale, [row for rows in made.values() for row in rows])
    train, test = made["train"], [e for e in made.get("test", []) if e.label is not None or not spec.has_head]
    if len(test) < len(made.get("test", [])):
        notes.append(f"{len(made['test']) - len(test):,} test rows have no label and are left out")
    if spec.max_rows is not None and spec.max_rows < len(train):
        order = permute(np.arange(spec.max_rows), len(train), round_keys(seed, "rows", spec.name))
        train = [train[i] for i in sorted(order.tolist())]
    valid = made.get("valid")
    if valid is None:
        train, valid = split(train, spec.valid_ratio, seed)
        if not valid:
            raise CorpusError(
                "has too few rows to set some aside as valid ones",
                where=f"{spec.data.folder}: {spec.data.train}",
                found=len(train),
                expected="two rows of one label at least",
                fix="Name a file in data.valid.",
            )
        notes.append(f"{len(valid):,} rows of train became valid rows, label by label")
    notes += _noticed(spec, train, valid, test)
    return TaskData(spec, train, valid, test, notes, _fingerprint(spec, seed))


def read_unlabelled(spec: TaskSpec, path: Path) -> Iterator[Example]:
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
        _refuse_text_for_label(spec, record, where)
        raw = _raw(bare, record, where)
        yield Example(raw.texts, None, where, raw.roles)


def _refuse_text_for_label(spec: TaskSpec, record: Any, where: str) -> None:
    """Refuse an unlabelled line where labels lead: its first word would be taken for one, and be lost."""
    column = spec.columns.label
    if spec.data.fields is None or not isinstance(record, list) or not spec.values or column is None:
        return
    found = plain(field(record, column, where), where)
    if found not in spec.values:
        raise CorpusError(
            "has no label where the task's lines have one, so words of its text would be lost",
            where=where,
            found=found,
            expected=f"one of {', '.join(spec.values)}"[:300],
            fix="Put any of the labels there.",
        )


def _check_scale(scale: tuple[float, float], rows: Sequence[Example]) -> None:
    for row in rows:
        if isinstance(row.label, float) and not scale[0] <= row.label <= scale[1]:
            raise CorpusError(
                "has a score outside scale", where=row.where, found=row.label, expected=f"{scale[0]} to {scale[1]}"
            )


def _read(spec: TaskSpec, paths: Sequence[Path], notes: list[str]) -> list[Raw]:
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


def _raw(spec: TaskSpec, record: Any, where: str) -> Raw:
    columns = spec.columns
    if spec.data.format == "folders":
        columns = columns.model_copy(update={"text": columns.text or "text", "label": columns.label or "label"})
    label = None if columns.label is None else _label_of(spec, record, columns.label, where)
    if spec.kind == "choice":
        return Raw((_text(record, columns.question, where), *_choices(record, columns.choices, where)), label, where)
    if spec.kind == "tokens":
        words = field(record, columns.tokens if columns.tokens is not None else 0, where)
        words = words.split() if isinstance(words, str) else words
        labels = label.split() if isinstance(label, str) else label
        if labels is not None and not isinstance(labels, list):
            raise CorpusError("has no list of labels", where=where, found=repr(labels)[:80])
        if not isinstance(words, list) or not words or not all(isinstance(w, str) and w for w in words):
            raise CorpusError("has no words, or an empty one", where=where)
        if labels is not None and len(labels) != len(words):
            raise CorpusError("has not one label a word", where=where, found=len(labels), expected=len(words))
        # A space before each word but the first, as byte-level BPE has them within a text.
        spaced = tuple(w if i == 0 else f" {w}" for i, w in enumerate(words))
        return Raw(spaced, None if labels is None else tuple(plain(v, where) for v in labels), where)
    if spec.kind == "chat" and columns.messages is not None:
        return _chat(field(record, columns.messages, where), where)
    texts = [_text(record, columns.text, where)]
    if columns.text2 is not None and spec.kind in ("pair", "similarity", "chat"):
        texts.append(_text(record, columns.text2, where))
    return Raw(tuple(texts), label, where, ("user", "assistant") if spec.kind == "chat" else ())


def _label_of(spec: TaskSpec, record: Any, column: Any, where: str) -> Any:
    value = field(record, column, where)
    is_index = spec.kind == "choice" and isinstance(value, int) and not isinstance(value, bool)
    return value if is_index or spec.kind == "tokens" else plain(value, where)


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


def _chat(messages: Any, where: str) -> Raw:
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
    return Raw(tuple(text for _, text in pairs), None, where, tuple(role for role, _ in pairs))


def split(rows: Sequence[Example], ratio: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Take a share of each label's rows, at least one of those with two or more, as valid rows."""
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        key = row.label if isinstance(row.label, int) else None
        groups.setdefault(key, []).append(i)
    chosen: set[int] = set()
    for key, members in groups.items():
        n = min(len(members) - 1, max(1, round(ratio * len(members))))  # one at least stays in train
        order = permute(np.arange(n), len(members), round_keys(seed, "valid", key))
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
    if spec.kind in ("classification", "pair", "similarity") and not spec.scored:
        counts = Counter(row.label for row in train)
        fractions = ", ".join(f"{name} {counts[i] / len(train):.1%}" for i, name in enumerate(spec.labels[:12]))
        notes.append(f"{len(train):,} training, {len(valid):,} valid, {len(test):,} test rows; {fractions}")
    else:
        notes.append(f"{len(train):,} training, {len(valid):,} valid, {len(test):,} test rows")
    return notes


def _fingerprint(spec: TaskSpec, seed: int) -> str:
    table = spec.model_dump(mode="json")
    table["data"].pop("folder")
    digest = hashlib.sha256(json.dumps([table, seed], sort_keys=True).encode())
    for side, names in (("train", spec.data.train), ("valid", spec.data.valid), ("test", spec.data.test)):
        for path in resolve_names(spec.data, names, side) if names is not None else ():
            inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for file in inside:
                digest.update(sha256(file).encode() if file.is_file() else str(file).encode())
    return digest.hexdigest()
