"""Tables with a header: CSV, where quotes may hold commas and line ends, and TSV, where a quote is a character."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.corpus.decode import parts, pieces
from firstlight.corpus.fields import missing_field, text_of
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files.compression import opened
from firstlight.types import Document

_LONGEST_FIELD = 1 << 30


def read_csv(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row of a comma-separated table (RFC 4180)."""
    # Not strict, a quote that is never closed would take all that follows as its field.
    yield from _read(path, settings, tally, {"delimiter": ",", "strict": True})


def read_tsv(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row of a tab-separated table (IANA text/tab-separated-values)."""
    yield from _read(path, settings, tally, {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def _read(path: Path, settings: CorpusSettings, tally: Tally, dialect: dict[str, Any]) -> Iterator[Document]:
    csv.field_size_limit(_LONGEST_FIELD)
    with opened(path) as file:
        lines = (line + "\n" for line in parts(pieces(file, str(path), settings, tally, mark_goes=True)))
        rows = _rows(csv.reader(lines, **dialect), path)
        where, header = next(rows, (str(path), None))
        if header is None:
            return
        if settings.text_field not in header:
            raise missing_field("column", settings.text_field, header, path)
        column = header.index(settings.text_field)
        for where, row in rows:
            if len(row) < len(header) or any(row[len(header) :]):
                raise CorpusError(
                    f"has {'more' if len(row) > len(header) else 'fewer'} columns than the header",
                    where=where,
                    found=len(row),
                    expected=len(header),
                    fix="Quote fields that hold a comma or line end.",
                )
            text = text_of(row[column], settings, tally, where)
            if text is not None:
                yield Document(text, where)


def _rows(reader: Any, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each row that is not blank, with the line where it begins."""
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            cut = str(error) == "unexpected end of data"
            problem = "begins a quoted field that is never closed" if cut else f"is no readable row: {error}"
            raise CorpusError(problem, where=where, fix="Mend that row.") from error
        if row is None:
            return
        if row:
            yield where, row
