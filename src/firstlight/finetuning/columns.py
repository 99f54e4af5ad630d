"""The columns of a record: by name, by number, or by a path of keys and indices with dots."""

import json
import re
from typing import Any

from firstlight.errors import CorpusError, nearest
from firstlight.files.field_names import nearest_field, nested_texts
from firstlight.files.table_dialect import looks_like_data, other_delimiter
from firstlight.finetuning.conll import DOCUMENT_START

_INDEX = re.compile(r"-?[0-9]{1,9}")
_ITEM = "item."


class ExplodedRow:
    """A row made of an item of a list within a record."""

    def __init__(self, record: Any, item: Any) -> None:
        self.record, self.item = record, item


def read_column(record: Any, column: int | str | None, where: str) -> Any:
    """Return a column of a record.

    Raises:
        CorpusError: it has no such column; names those that it has, and the nearest.
    """
    if isinstance(record, ExplodedRow):
        if isinstance(column, str) and column.startswith(_ITEM):
            return follow(record.item, column.removeprefix(_ITEM), where)
        return read_column(record.record, column, where)
    if isinstance(record, dict):
        if column in record:
            return record[column]
        if isinstance(column, int) and str(column) in record and _are_numbers(record):
            return record[str(column)]
        if isinstance(column, str) and "." in column and column.partition(".")[0] in record:
            return follow(record, column, where)
        raise CorpusError(
            "has no such column",
            where=where,
            found=f"columns {', '.join(map(str, record))}"[:300],
            expected=column,
            fix=_advise_column(record, column),
        )
    if not isinstance(record, list):
        raise CorpusError("is not a record with columns", where=where, found=repr(record)[:60])
    if record and isinstance(record[0], dict):
        raise CorpusError(
            "is a list of records", where=where, found=f"{len(record)} items", fix='Set data.format = "json".'
        )
    number = int(str(column)) if _INDEX.fullmatch(str(column)) else None
    if number is None or not -len(record) <= number < len(record):
        other = other_delimiter(record, "") if len(record) == 1 and isinstance(record[0], str) else None
        named = "Set the right number in [columns], or data.header = true where the first line names them."
        raise CorpusError(
            "has no such column",
            where=where,
            found=f"{len(record)} fields, numbered from 0",
            expected=column,
            fix=named if other is None else f"Set data.delimiter = {json.dumps(other, ensure_ascii=False)}.",
        )
    return record[number]


def _are_numbers(record: dict[Any, Any]) -> bool:
    """Whether a table's columns are named 0, 1, 2 …, as pandas writes columns without names, after the rows' index."""
    names = {name for name in record if name != ""}
    return names == {str(number) for number in range(len(names))}


def _advise_column(record: dict[Any, Any], column: int | str | None) -> str:
    """Say what to set where a record with named columns lacks one."""
    names = [str(name) for name in record]
    if names and names[0].lstrip().startswith(("{", "[")):
        return 'Set data.format = "jsonl" if each line is JSON, or "json" if the file is a list.'
    records = next((k for k, v in record.items() if isinstance(v, list) and v and isinstance(v[0], dict)), None)
    if records is not None:
        return (
            f'Set data.field = {json.dumps(str(records), ensure_ascii=False)} and data.format = "json", if that is the '
            "list of records."
        )
    if names and names[0].startswith(DOCUMENT_START):
        return 'Set data.format = "conll".'
    if (other := other_delimiter(names, "")) is not None:
        return f"Set data.delimiter = {json.dumps(other, ensure_ascii=False)}, if that separates the columns."
    if _INDEX.fullmatch(str(column)):
        return "Set data.header = false where the first line is a row, or name the column in [columns]."
    near = nearest_field(str(column), nested_texts(record))
    how = "in [columns], or with the command (columns.text=…, columns.label=…)."
    if near is None and looks_like_data(names) and not _are_numbers(record):
        return "If the first line is a row, set data.header=false and name columns by number, from 0: columns.text=0."
    return f"Did you mean {near!r}? Set it {how}" if near else f"Set the right one {how}"


def follow(value: Any, path: str, where: str) -> Any:
    """Return the value under keys and indices separated by dots.

    Raises:
        CorpusError: there is none; names what is there.
    """
    keys = path.split(".")
    for i, key in enumerate(keys):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and _INDEX.fullmatch(key) and -len(value) <= int(key) < len(value):
            value = value[int(key)]
        else:
            near = nearest(key, map(str, value)) if isinstance(value, dict) else None
            fix = f"Did you mean {'.'.join([*keys[:i], near])!r}?" if near else None
            raise CorpusError(f"has no {key!r}", where=f"{where}: {path}", found=_describe(value)[:200], fix=fix)
    return value


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(map(str, value))
    return f"{len(value)} items" if isinstance(value, list) else repr(value)[:60]
