"""Readers of tables with a header: CSV, where quotes may hold commas and line breaks, and TSV, where some files do."""

import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from firstlight import progress
from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.corpus.fields import join_texts, missing_field_error, record_documents, skip_or_raise
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files.compression import open_compressed
from firstlight.files.table_dialect import read_sep_line, resolve_quotes
from firstlight.files.tables import Truncated, check_header, check_width, iter_rows
from firstlight.types import Document

_FIX_ROW = "Fix that row, or read quotes as text: corpus.quotes=false"


class CsvReader:
    """Comma-separated tables (RFC 4180): one document per row."""

    suffixes = (".csv",)
    extra: str | None = None

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents."""
        yield from _read(path, settings, tally, delimiter=",", quotes=settings.quotes is not False)


class TsvReader:
    """Tab-separated tables (IANA text/tab-separated-values): one document per row."""

    suffixes = (".tsv",)
    extra: str | None = None

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents."""
        yield from _read(path, settings, tally, delimiter="\t", quotes=settings.quotes)


def _read(
    path: Path, settings: CorpusSettings, tally: Tally, *, delimiter: str, quotes: bool | None
) -> Iterator[Document]:
    limits = settings.read_limits
    with open_compressed(path, limits=limits) as file:
        chunks = decode_chunks(file, str(path), settings, tally, strip_bom=True)
        lines: Iterator[str] = (line + "\n" for line in split_stream(chunks, where=path, limits=limits))
        named, lines = read_sep_line(lines)
        delimiter = settings.delimiter or named or delimiter
        quoting, lines = resolve_quotes(
            lines, path, delimiter=delimiter, quotes=quotes, key="corpus", notify=_notice_once
        )
        rows = iter_rows(lines, path, delimiter=delimiter, quoting=quoting, limits=limits, fix=_FIX_ROW)
        texts = _texts(rows, path, settings, tally, delimiter)
        yield from record_documents(texts, settings, tally)


@cache
def _notice_once(text: str) -> None:
    progress.notice(text)  # a corpus is read several times


def _texts(
    rows: Iterator[tuple[int, list[str] | Truncated]],
    path: Path,
    settings: CorpusSettings,
    tally: Tally,
    delimiter: str,
) -> Iterator[tuple[str, str]]:
    """Yield the text of each row after the header, with its location."""
    width, columns = -1, [0]
    for number, row in rows:
        assert not isinstance(row, Truncated)
        if width < 0:
            check_header(row, f"{path}:{number}")
            missing = next((name for name in settings.text_fields if name not in row), None)
            if missing is not None:
                _, first = next(rows, (0, []))
                assert not isinstance(first, Truncated)
                texts = dict(itertools.zip_longest(row, first[: len(row)]))
                raise missing_field_error("column", missing, texts, path, delimiter=delimiter)
            width, columns = len(row), [row.index(name) for name in settings.text_fields]
            continue
        where = f"{path}:{number}"
        try:
            check_width(row, width, where, allow_blank=True, fix="Quote fields that hold a comma or line break.")
        except CorpusError as error:
            skip_or_raise(error, settings, tally)
            continue
        yield where, join_texts([row[column] for column in columns])
