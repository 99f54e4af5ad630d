"""Tables with a header: CSV and TSV."""

import csv
from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus.decode import pieces
from firstlight.corpus.opening import opened
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, nearest
from firstlight.types import Document


def read_csv(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row of a comma-separated table."""
    yield from _read(path, settings, tally, ",")


def read_tsv(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield one document a row of a tab-separated table."""
    yield from _read(path, settings, tally, "\t")


def _read(path: Path, settings: CorpusSettings, tally: Tally, delimiter: str) -> Iterator[Document]:
    csv.field_size_limit(1 << 30)
    with opened(path) as file:
        lines = _lines(pieces(file, str(path), settings, tally))
        rows = csv.reader(lines, delimiter=delimiter)
        header = next(rows, None)
        if header is None:
            return
        if settings.text_field not in header:
            near = nearest(settings.text_field, header) or header[0]
            raise CorpusError(
                f"has no column {settings.text_field!r}", where=path, found=f"columns {', '.join(header)}",
                fix=f"Name the column: --text-field {near}",
            )  # fmt: skip
        column = header.index(settings.text_field)
        try:
            for row in rows:
                if not row:
                    continue
                where = f"{path}:{rows.line_num}"
                if len(row) <= column:
                    raise CorpusError("has fewer columns than the header", where=where, found=len(row), expected=len(header))
                yield Document(row[column], where)
        except csv.Error as error:
            raise CorpusError(f"is no readable row: {error}", where=f"{path}:{rows.line_num}") from error


def _lines(stream: Iterator[str]) -> Iterator[str]:
    held = ""
    for piece in stream:
        *lines, held = (held + piece).split("\n")
        for line in lines:
            yield line + "\n"
    if held:
        yield held
