"""Readers of tables with a header: CSV, where quotes may hold commas and line breaks, and TSV, which has no quotes."""

from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.corpus.fields import extract_text, missing_field_error
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
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
    with open_compressed(path) as file:
        lines = (line + "\n" for line in split_stream(decode_chunks(file, str(path), settings, tally, strip_bom=True)))
        width = column = -1
        for number, row in iter_rows(lines, path, delimiter=delimiter, quoting=quoting):
            assert not isinstance(row, Truncated)
            if width < 0:
                if settings.text_field not in row:
                    raise missing_field_error("column", settings.text_field, row, path)
                width, column = len(row), row.index(settings.text_field)
                continue
            where = f"{path}:{number}"
            check_width(row, width, where, allow_blank=True, fix="Quote fields that hold a comma or line break.")
            text = extract_text(row[column], settings, tally, where)
            if text is not None:
                yield Document(text, where)
