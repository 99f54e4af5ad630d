"""Readers of records with a text field: JSON lines, JSON, Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.corpus.decode import parts, pieces
from firstlight.corpus.fields import missing_field, text_of
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.files.compression import open_compressed
from firstlight.files.json_stream import JsonStream
from firstlight.files.tables import iter_json_lines, iter_parquet
from firstlight.types import Document


def read_jsonl(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a line."""
    with open_compressed(path) as file:
        lines = parts(pieces(file, str(path), settings, tally, mark_goes=True))
        for number, record in iter_json_lines(lines, path):
            where = f"{path}:{number}"
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
    with open_compressed(path) as file:
        values = JsonStream(pieces(file, str(path), settings, tally, mark_goes=True), path)
        if only_list is not None:
            for key in values.iter_keys():
                if key == only_list:
                    yield from values.iter_items()
                else:
                    values.value()
        elif values.peek() == "[":
            yield from values.iter_items()
        while values.peek():
            yield values.value()


def _only_list(path: Path, settings: CorpusSettings) -> str | None:
    """Return the key of the list that an object stands around, if that is what the file is."""
    with open_compressed(path) as file:
        # Bad bytes are counted by the reading that follows.
        values = JsonStream(pieces(file, str(path), settings, Tally(), mark_goes=True), path)
        if values.peek() != "{":
            return None
        lists, is_record = [], False
        for key in values.iter_keys():
            is_record = is_record or key in (settings.text_field, settings.text_field.split(".")[0])
            if values.peek() == "[":
                lists.append(key)
                for _ in values.iter_items():
                    continue
            else:
                values.value()
        return lists[0] if len(lists) == 1 and not is_record and not values.peek() else None


def read_parquet(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row; some hundred rows are in memory at a time, never a whole row group."""
    field = settings.text_field

    def select(columns: list[str]) -> list[str]:
        if field not in columns and field.split(".")[0] not in columns:
            raise missing_field("column", field, columns, path)
        return [field]

    for row, record in iter_parquet(path, select=select):
        where = f"{path}: row {row}"
        text = text_of(record, settings, tally, where)
        if text is not None:
            yield Document(text, where)
