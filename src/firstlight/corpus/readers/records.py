"""Records with a text field: JSON lines, JSON, Parquet."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.corpus.decode import parts, pieces
from firstlight.corpus.fields import missing_field, text_of
from firstlight.corpus.readers.json_stream import Values
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, MissingExtra
from firstlight.files.compression import opened, seekable
from firstlight.types import Document

_ROWS = 256
_BUFFER = 1 << 20


def read_jsonl(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a line."""
    with opened(path) as file:
        for number, line in enumerate(parts(pieces(file, str(path), settings, tally, mark_goes=True)), start=1):
            if not line or line.isspace():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"is no JSON: {error}", where=where, found=repr(line[:60])) from error
            text = text_of(record, settings, tally, where)
            if text is not None:
                yield Document(text, where)


def read_json(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document an entry of a list, which stands alone or as the only list of an object.

    An object that has the text field, or no list, is one document; several values one after another (JSON
    lines by another name) are a document each. One entry is in memory at a time; an object is read twice,
    first to see what is in it.
    """
    for number, record in enumerate(_entries(path, settings, tally), start=1):
        where = f"{path}: entry {number}"
        text = text_of(record, settings, tally, where)
        if text is not None:
            yield Document(text, where)


def _entries(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Any]:
    only_list = _only_list(path, settings)
    with opened(path) as file:
        values = Values(pieces(file, str(path), settings, tally, mark_goes=True), path)
        if only_list is not None:
            for key in values.members():
                if key == only_list:
                    yield from values.entries()
                else:
                    values.value()
        elif values.peek() == "[":
            yield from values.entries()
        while values.peek():
            yield values.value()


def _only_list(path: Path, settings: CorpusSettings) -> str | None:
    """Return the key of the list that an object stands around, if that is what the file is."""
    with opened(path) as file:
        # Bad bytes are counted by the reading that follows.
        values = Values(pieces(file, str(path), settings, Tally(), mark_goes=True), path)
        if values.peek() != "{":
            return None
        lists, is_record = [], False
        for key in values.members():
            is_record = is_record or key in (settings.text_field, settings.text_field.split(".")[0])
            if values.peek() == "[":
                lists.append(key)
                for _ in values.entries():
                    continue
            else:
                values.value()
        return lists[0] if len(lists) == 1 and not is_record and not values.peek() else None


def read_parquet(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row; some hundred rows are in memory at a time, never a whole row group."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("reading .parquet", "parquet") from error
    field = settings.text_field
    with seekable(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
            known = table.schema_arrow.names
            if field not in known and field.split(".")[0] not in known:
                raise missing_field("column", field, known, path)
            row = 0
            for batch in table.iter_batches(batch_size=_ROWS, columns=[field], use_threads=False):
                for record in batch.to_pylist():
                    row += 1
                    where = f"{path}: row {row}"
                    text = text_of(record, settings, tally, where)
                    if text is not None:
                        yield Document(text, where)
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(f"is no readable Parquet file: {error}", where=path, fix="Fetch it again.") from error
        except UnicodeDecodeError as error:
            raise CorpusError(
                "is not UTF-8",
                where=f"{path}: row {row + 1} or after",
                found=error.object[error.start : error.end].hex(" "),
            ) from error
