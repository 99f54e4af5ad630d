"""Readers of tables with a header: CSV, where quotes may hold commas and line breaks, and TSV, which has no quotes."""

from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus.decode import parts, pieces
from firstlight.corpus.fields import missing_field, text_of
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.files.compression import open_compressed
from firstlight.files.tables import Truncated, check_width, iter_rows
from firstlight.types import Document

_FIX = "Quote fields that hold a comma or line break."


def read_csv(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row of a comma-separated table (RFC 4180)."""
    yield from _read(path, settings, tally, delimiter=",", quoting=True)


def read_tsv(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row of a tab-separated table (IANA text/tab-separated-values)."""
    yield from _read(path, settings, tally, delimiter="\t", quoting=False)


def _read(path: Path, settings: CorpusSettings, tally: Tally, *, delimiter: str, quoting: bool) -> Iterator[Document]:
    with open_compressed(path) as file:
        lines = (line + "\n" for line in parts(pieces(file, str(path), settings, tally, mark_goes=True)))
        width = column = -1
        for number, row in iter_rows(lines, path, delimiter=delimiter, quoting=quoting):
            assert not isinstance(row, Truncated)
            if width < 0:
                if settings.text_field not in row:
                    raise missing_field("column", settings.text_field, row, path)
                width, column = len(row), row.index(settings.text_field)
                continue
            where = f"{path}:{number}"
            check_width(row, width, where, allow_blank=True, fix=_FIX)
            text = text_of(row[column], settings, tally, where)
            if text is not None:
                yield Document(text, where)
