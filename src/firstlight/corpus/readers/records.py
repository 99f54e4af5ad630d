"""Readers of records with a text field: JSON lines, JSON, Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.corpus.fields import field_value, missing_field_error, record_documents, skip_or_raise
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import Failure
from firstlight.files.compression import open_compressed
from firstlight.files.field_names import nested_texts
from firstlight.files.json_stream import JsonStream
from firstlight.files.tables import iter_json_lines, iter_parquet
from firstlight.types import Document


class JsonLinesReader:
    """JSON lines: one document per line."""

    suffixes = (".jsonl", ".ndjson")
    extra: str | None = None

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents."""
        limits = settings.read_limits

        def report(error: Failure) -> None:
            skip_or_raise(error, settings, tally)

        with open_compressed(path, limits=limits) as file:
            chunks = decode_chunks(file, str(path), settings, tally, strip_bom=True)
            lines = split_stream(chunks, where=path, limits=limits)
            records = ((f"{path}:{number}", record) for number, record in iter_json_lines(lines, path, report=report))
            yield from record_documents(records, settings, tally)


class JsonReader:
    """JSON: one document per element of a list, which is the whole file or the only list in an object.

    An object that has the text field, or no list, is one document; several values one after another (JSON lines by
    another name) are a document each. One element is in memory at a time; an object is parsed twice, first to see
    what is in it.
    """

    suffixes = (".json",)
    extra: str | None = None

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents."""
        records = enumerate(_records(path, settings, tally), start=1)
        yield from record_documents(((f"{path}: entry {n}", record) for n, record in records), settings, tally)


def _records(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Any]:
    only_list = _only_list(path, settings)
    limits = settings.read_limits
    with open_compressed(path, limits=limits) as file:
        stream = JsonStream(decode_chunks(file, str(path), settings, tally, strip_bom=True), path, limits=limits)
        if only_list is not None:
            for key in stream.iter_keys():
                if key == only_list:
                    yield from stream.iter_items()
                else:
                    stream.value()
        elif stream.peek() == "[":
            yield from stream.iter_items()
        while stream.peek():
            yield stream.value()


def _only_list(path: Path, settings: CorpusSettings) -> str | None:
    """Return the key of the only list in an object, if the file is an object of records."""
    limits = settings.read_limits
    with open_compressed(path, limits=limits) as file:
        # Bad bytes are counted when the file is read again.
        stream = JsonStream(decode_chunks(file, str(path), settings, Tally(), strip_bom=True), path, limits=limits)
        if stream.peek() != "{":
            return None
        lists, is_record = [], False
        for key in stream.iter_keys():
            is_record = is_record or any(key in (name, name.split(".")[0]) for name in settings.text_fields)
            if stream.peek() == "[":
                lists.append(key)
                for _ in stream.iter_items():
                    continue
            else:
                stream.value()
        return lists[0] if len(lists) == 1 and not is_record and not stream.peek() else None


class ParquetReader:
    """Parquet: one document per row; some hundred rows are in memory at a time, never a whole row group."""

    suffixes = (".parquet",)
    extra: str | None = "parquet"

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents."""
        fields = settings.text_fields

        def select(columns: list[str]) -> list[str]:
            for field in fields:
                if field in columns:
                    continue
                # What is named within a column may not exist either; pyarrow then reads nothing.
                _, first = next(iter_parquet(path, limits=settings.read_limits), (0, dict.fromkeys(columns)))
                if field.partition(".")[0] not in columns:
                    texts = nested_texts(first)
                    raise missing_field_error("column", field, texts, path, known=columns, record=first)
                field_value(first, field, f"{path}: row 1")
            return fields

        rows = iter_parquet(path, select=select, limits=settings.read_limits)
        yield from record_documents(((f"{path}: row {row}", record) for row, record in rows), settings, tally)
