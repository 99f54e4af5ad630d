"""Read records from untrusted tables: delimited text (CSV, TSV), JSON lines, Parquet; streamed, with row numbers.

Rows and lines are counted from 1. The text formats take an iterator of lines, so that the caller decides how bytes
are decoded (``text_decoder.iter_lines``). A file that was cut off while it was copied ends within its last
record: with ``allow_truncated`` that record is yielded as ``TRUNCATED``, otherwise it is an error like any other.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from firstlight.errors import CorpusError, Failure, MissingExtra
from firstlight.files.compression import COMPRESSED, open_seekable
from firstlight.files.json_stream import parse_json
from firstlight.files.limits import DEFAULT_LIMITS, Limits
from firstlight.files.parquet_pages import batch_rows
from firstlight.shell import quote_argument, unused_path

_PARQUET_BUFFER_BYTES = 1 << 20


class Truncated:
    """Stands for the last record of a file that was cut off within it."""


TRUNCATED: Final = Truncated()


def iter_rows(
    lines: Iterator[str],
    path: Path,
    *,
    delimiter: str = ",",
    quoting: bool = True,
    max_fields: int | None = None,
    allow_truncated: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    error: type[Failure] = CorpusError,
    fix: str = "Fix that row.",
) -> Iterator[tuple[int, list[str] | Truncated]]:
    r"""Yield the rows of a delimited table that are not blank, each with the number of the line where it starts.

    Args:
        lines: text lines, with their ``\n``.
        path: the file's name in messages.
        delimiter: one character; with ``max_fields``, any string.
        quoting: fields in double quotes may hold delimiters and line breaks (RFC 4180); otherwise a quote is a
            character like any other (IANA text/tab-separated-values).
        max_fields: split each line at most this often less one: the last field keeps its delimiters. No quoting.
        allow_truncated: yield TRUNCATED where a quote that opens on the last line is never closed.
        limits: bound the length of a row.
        error: class of the error.
        fix: what the message advises for a row that cannot be parsed.

    Raises:
        Failure: of the class ``error``: a malformed row, or a quoted field that is never closed.
    """
    if max_fields is not None:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line.rstrip("\r\n").split(delimiter, max_fields - 1)
        return
    csv.field_size_limit(limits.max_document_bytes)
    size, start = 0, 1

    def counted() -> Iterator[str]:
        nonlocal size
        for line in lines:
            size += len(line)
            limits.check_size(size, "the row", f"{path}:{start}", error=error)
            yield line

    # Unless strict, a quote that is never closed would take all that follows as its field.
    reader = csv.reader(
        counted(), delimiter=delimiter, strict=quoting, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    )
    while True:
        number = start = reader.line_num + 1
        size = 0
        try:
            row = next(reader, None)
        except csv.Error as refused:
            where = f"{path}:{number}"
            if str(refused) != "unexpected end of data":
                raise error(f"malformed row: {refused}", where=where, fix=fix) from refused
            # All lines from here to the end were taken for one field: more likely a stray quote than a cut.
            if not allow_truncated or number != reader.line_num:
                raise error("opens a quoted field that is never closed", where=where, fix=fix) from refused
            yield number, TRUNCATED
            return
        if row is None:
            return
        if row:
            yield number, row


def check_width(
    row: Sequence[str],
    width: int,
    where: str,
    *,
    allow_blank: bool = False,
    error: type[Failure] = CorpusError,
    fix: str | None = None,
) -> None:
    """Check that a row has as many fields as the header (or the rows before it).

    Args:
        row: its fields.
        width: the expected number of fields.
        where: file and line, for the message.
        allow_blank: accept empty fields after the last column.
        error: class of the error.
        fix: what the message advises.

    Raises:
        Failure: of the class ``error``: it has more or fewer fields.
    """
    if len(row) == width or (allow_blank and len(row) > width and not any(row[width:])):
        return
    problem = f"has {'more' if len(row) > width else 'fewer'} fields than the first row"
    raise error(problem, where=where, found=len(row), expected=width, fix=fix)


def check_header(header: Sequence[str], where: str, *, error: type[Failure] = CorpusError) -> None:
    """Check that no two columns have the same name.

    Raises:
        Failure: of the class ``error``: two columns do.
    """
    twice = next((name for i, name in enumerate(header) if name and name in header[:i]), None)
    if twice is not None:
        raise error("two columns have the same name", where=where, found=twice, fix="Rename one of them.")


def iter_json_lines(
    lines: Iterator[str],
    path: Path,
    *,
    allow_truncated: bool = False,
    report: Callable[[Failure], object] | None = None,
    error: type[Failure] = CorpusError,
) -> Iterator[tuple[int, Any]]:
    r"""Yield the values of JSON lines that are not blank, each with its line number.

    Args:
        lines: text lines; ``allow_truncated`` needs them with their ``\n``.
        path: the file's name in messages.
        allow_truncated: yield TRUNCATED for a last line that has no line break and is not JSON.
        report: called with the error of a line that is not JSON; where it returns, the line is skipped.
        error: class of the error.

    Raises:
        Failure: of the class ``error``: a line is not JSON.
    """
    number, line, is_first = 1, next(lines, None), True
    while line is not None:
        following = next(lines, None)
        if line and not line.isspace():
            try:
                value = parse_json(line, f"{path}:{number}", error=error)
            except error as refused:
                if allow_truncated and following is None and not line.endswith("\n"):
                    yield number, TRUNCATED
                    return
                refused = _json_over_lines(refused, line, path, error) if is_first else refused
                if report is None or refused.fix is not None:
                    raise refused from None
                report(refused)
            else:
                yield number, value
            is_first = False
        number, line = number + 1, following


def _json_over_lines(refused: Failure, line: str, path: Path, error: type[Failure]) -> Failure:
    """Return the error for a first line that starts a JSON value of several lines; another error as it is."""
    text = line.strip()
    goes_on = text.startswith("[") or text == "{" or (text[:1] == "{" and text[-1:] == "," and text[-2:] != "},")
    is_packed = path.suffix.lower() in COMPRESSED
    inner = path.with_suffix("") if is_packed else path
    if not goes_on or "Expecting" not in refused.problem or inner.suffix.lower() not in (".jsonl", ".ndjson"):
        return refused
    name = unused_path(path.with_name(f"{inner.stem}.json{path.suffix if is_packed else ''}"))
    return error(
        "is not JSON lines: its first value goes on after the first line",
        where=refused.where,
        found=refused.found,
        fix=f"Name it as JSON: mv {quote_argument(path)} {quote_argument(name)}",
    )


def iter_parquet(
    path: Path,
    *,
    select: Callable[[list[str]], list[str] | None] = lambda _: None,
    limits: Limits = DEFAULT_LIMITS,
    error: type[Failure] = CorpusError,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file, compressed or not, each with its number.

    Some hundred rows are in memory at a time, fewer where pages are large, and never a whole row group.

    Args:
        path: the file.
        select: given the names of all columns, returns those to read (nested ones as ``a.b``), or None for all.
        limits: bound the size of a page, and how far the file expands.
        error: class of the error.

    Raises:
        Failure: of the class ``error``: the file is damaged or expands too far, a string is not UTF-8, or two columns
            have the same name.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as missing:
        raise MissingExtra("reading .parquet", "parquet") from missing
    number = 0
    with open_seekable(path, limits=limits, error=error) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False)
            check_header(table.schema_arrow.names, str(path), error=error)
            columns = select(table.schema_arrow.names)
            n_rows = batch_rows(file, table.metadata, columns, limits, path, error=error)
            for batch in table.iter_batches(batch_size=n_rows, columns=columns, use_threads=False):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
        except (pyarrow.ArrowException, OSError) as refused:
            raise error(f"is not a readable Parquet file: {refused}", where=path, fix="Fetch it again.") from refused
        except UnicodeDecodeError as refused:
            raise error(
                "is not UTF-8",
                where=f"{path}: row {number + 1} or after",
                found=refused.object[refused.start : refused.end].hex(" "),
            ) from refused
