"""Find out what a task does not say about its files, from the training files: columns, and quotes around fields."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from firstlight.errors import CorpusError
from firstlight.files.tables import TRUNCATED
from firstlight.finetuning.kinds import kind_of
from firstlight.finetuning.readers import has_quoted_fields, read_records, resolve_names
from firstlight.finetuning.spec import Columns, TaskSpec

_EXAMINED = 1000  # records whose keys are looked at


def split_files(spec: TaskSpec) -> dict[str, list[Path]]:
    """Return the files of each split that the task names.

    Raises:
        CorpusError: there is no such file.
    """
    names = {"train": spec.data.train, "valid": spec.data.valid, "test": spec.data.test}
    return {side: resolve_names(spec.data, found, side) for side, found in names.items() if found is not None}


def detect_quotes(spec: TaskSpec, train: Sequence[Path], notes: list[str]) -> TaskSpec:
    """Find out whether quotes enclose fields; it then holds for the files of all splits, and at predict.

    Args:
        spec: the task.
        train: its training files.
        notes: gets a remark where they do.
    """
    if spec.data.quotes is not None:
        return spec
    quoted = next((path for path in train if has_quoted_fields(path, spec.data)), None)
    if quoted is None:
        return spec
    notes.append(f"{quoted}: quotes enclose its fields, and are removed (set data.quotes = false to keep them)")
    return spec.model_copy(update={"data": spec.data.model_copy(update={"quotes": True})})


def detect_columns(spec: TaskSpec, path: Path, notes: list[str]) -> TaskSpec:
    """Find the columns of a task that sets none, from the names in the first training rows.

    Args:
        spec: the task.
        path: its first training file.
        notes: gets a remark with the columns that were found.

    Raises:
        CorpusError: the row has none that the kind knows.
    """
    inputs = kind_of(spec).inputs
    if spec.columns != Columns() or () not in inputs.columns or spec.data.format == "folders":
        return spec
    where, record = _first_record(path, spec)
    columns = inputs.detect_columns(record)
    if columns is None:
        raise CorpusError(
            "has no columns of a known name",
            where=where,
            found=", ".join(map(str, record)) if isinstance(record, dict) else None,
            expected=", or ".join(" and ".join(names) for names in inputs.columns if names),
            fix="Set the columns in [columns].",
        )
    found = columns.model_dump(exclude_none=True)
    used = [name for value in found.values() for name in (value if isinstance(value, list) else [value])]
    others = ", ".join(str(name) for name in record if name not in used) if isinstance(record, dict) else ""
    shown = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in found.items())
    notes.append(f"{path}: columns {shown}{f'; not used: {others}' if others else ''}")
    return spec.model_copy(update={"columns": columns})


def _first_record(path: Path, spec: TaskSpec) -> tuple[str, Any]:
    """Return the first record with the keys of those after it, which in lines of JSON may have more."""
    where = str(path)
    first: Any = TRUNCATED
    for n, (place, record) in enumerate(islice(read_records(path, spec.data), _EXAMINED)):
        if n == 0:
            where, first = place, record
        if not isinstance(first, dict) or not isinstance(record, dict):
            break
        first = {**record, **first}
    return where, first
