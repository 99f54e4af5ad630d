"""Readers of tables with a header: CSV, where quotes may hold commas and line breaks, and TSV, which has no quotes."""

from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.corpus.fields import missing_field_error, record_documents, skip_or_raise
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files.compression import open_compressed
from firstlight.files.tables import Truncated, check_width, iter_rows
from firstlight.types import Document


class CsvReader:
    """Comma-separated tables (RFC 4180): one document per row."""

    suffixes = (".csv",)
    extra: str | None = None

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents."""
        yield from _read(path, settings, tally, delimiter=",", quoting=True)


class TsvReader:
    """Tab-separated tables (IANA text/tab-separated-values): one document per row."""

    suffixes = (".tsv",)
    extra: str | None = None

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents."""
        yield from _read(path, settings, tally, delimiter="\t", quoting=False)


def _read(path: Path, settings: CorpusSettings, tally: Tally, *, delimiter: str, quoting: bool) -> Iterator[Document]:
    limits = settings.read_limits
    with open_compressed(path, limits=limits) as file:
        chunks = decode_chunks(file, str(path), settings, tally, strip_bom=True)
        lines = (line + "\n" for line in split_stream(chunks, where=path, limits=limits))
        rows = iter_rows(lines, path, delimiter=delimiter, quoting=quoting, limits=limits)
        yield from record_documents(_texts(rows, path, settings, tally), settings, tally)


def _texts(
    rows: Iterator[tuple[int, list[str] | Truncated]], path: Path, settings: CorpusSettings, tally: Tally
) -> Iterator[tuple[str, str]]:
    """Yield the text of each row after the header, with its location."""
    width = column = -1
    for number, row in rows:
        assert not isinstance(row, Truncated)
        if width < 0:
            if settings.text_field not in row:
                raise missing_field_error("column", settings.text_field, row, path)
            width, column = len(row), row.index(settings.text_field)
            continue
        where = f"{path}:{number}"
        try:
            check_width(row, width, where, allow_blank=True, fix="Quote fields that hold a comma or line break.")
        except CorpusError as error:
            skip_or_raise(error, settings, tally)
            continue
        yield where, row[column]
