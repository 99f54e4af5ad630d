"""Records with a text field: JSON lines, JSON, Parquet."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.corpus.decode import pieces
from firstlight.corpus.opening import opened
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, MissingExtra, nearest
from firstlight.types import Document


def text_of(record: Any, field: str, where: str) -> str:
    """Return a record's text.

    Raises:
        CorpusError: the field is missing, or holds no string.
    """
    value = record
    for part in field.split("."):
        if not isinstance(value, dict) or part not in value:
            keys = sorted(value) if isinstance(value, dict) else []
            near = nearest(part, keys)
            raise CorpusError(
                f"has no field {field!r}", where=where,
                found=f"fields {', '.join(keys)}" if keys else type(value).__name__,
                fix=f"Name the field: --text-field {near or (keys[0] if keys else 'NAME')}",
            )  # fmt: skip
        value = value[part]
    if not isinstance(value, str):
        raise CorpusError(f"field {field!r} is no text", where=where, found=type(value).__name__, expected="a string")
    return value


def read_jsonl(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a line."""
    with opened(path) as file:
        for number, line in enumerate(_lines(pieces(file, str(path), settings, tally)), start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise CorpusError(f"is no JSON: {error}", where=where, found=line[:60]) from error
            yield Document(record if isinstance(record, str) else text_of(record, settings.text_field, where), where)


def _lines(stream: Iterator[str]) -> Iterator[str]:
    held = ""
    for piece in stream:
        *lines, held = (held + piece).split("\n")
        yield from lines
    if held:
        yield held


def read_json(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document an entry of a list, which stands alone or as the only list of an object."""
    with opened(path) as file:
        text = "".join(pieces(file, str(path), settings, tally))
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CorpusError(f"is no JSON: {error}", where=path) from error
    if isinstance(data, dict):
        lists = [v for v in data.values() if isinstance(v, list)]
        data = lists[0] if len(lists) == 1 and settings.text_field not in data else [data]
    for number, record in enumerate(data if isinstance(data, list) else [data], start=1):
        where = f"{path}: entry {number}"
        yield Document(record if isinstance(record, str) else text_of(record, settings.text_field, where), where)


def read_parquet(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row, one row group in memory at a time."""
    del tally
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("reading .parquet", "parquet") from error
    try:
        table = pyarrow.parquet.ParquetFile(path)
        names = table.schema_arrow.names
        if settings.text_field not in names:
            near = nearest(settings.text_field, names) or next(iter(names), "NAME")
            raise CorpusError(
                f"has no column {settings.text_field!r}", where=path, found=f"columns {', '.join(names)}",
                fix=f"Name the column: --text-field {near}",
            )  # fmt: skip
        row = 0
        for batch in table.iter_batches(columns=[settings.text_field]):
            for value in batch.column(0).to_pylist():
                row += 1
                where = f"{path}: row {row}"
                yield Document(text_of({settings.text_field: value}, settings.text_field, where), where)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"is no readable Parquet file: {error}", where=path) from error
