"""Find out how a delimited table is written: whether quotes enclose its fields, and what separates them."""

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight.errors import CorpusError, Failure

_SAMPLE_LINES, _SAMPLE_CHARACTERS = 2000, 1 << 20
_DELIMITERS = ",;\t|"
_WIDE_DELIMITERS = "，；｜、"  # of Chinese input methods
_SENTENCE_ENDS = tuple("。！？…”")
_MIN_ROWS = 2  # that make a pattern

_SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?[,;\t]*\r?\n?', re.IGNORECASE)
_MIN_SENTENCE_WORDS, _MAX_NAME = 5, 40


@dataclass(frozen=True, slots=True)
class QuoteStyle:
    """Whether quotes enclose fields, from the first lines of a table.

    Attributes:
        quoting: they do: doubled quotes, delimiters or line breaks within them, or all rows of a column, show it.
        n_enclosed: fields that are enclosed in quotes.
        n_sampled: lines that were looked at.
    """

    quoting: bool
    n_enclosed: int
    n_sampled: int


class KeptQuotes:
    """Counts rows of a table with fields whose quotes are kept as text, although they may enclose them.

    Args:
        quoting: whether double quotes enclose fields.
    """

    def __init__(self, *, quoting: bool) -> None:
        self._quoting, self._n_rows, self._n_spaced, self._n_single = quoting, 0, 0, 0

    def add(self, fields: Sequence[str]) -> None:
        """Look at a row."""
        self._n_rows += 1
        # A double quote encloses a field only if it is the first character.
        self._n_spaced += self._quoting and any(f[:1] == " " and _is_enclosed(f, '"') for f in fields)
        self._n_single += any(_is_enclosed(f, "'") for f in fields)

    def describe(self) -> str:
        """Return a remark about the rows; empty where there is none to make."""
        if self._n_spaced:
            return f"{self._n_spaced:,} rows have a space before a quote, which is therefore kept as text"
        if self._n_rows >= _MIN_ROWS and self._n_single == self._n_rows:
            return "single quotes enclose a field of every row, and are kept as text"
        return ""


def _is_enclosed(field: str, quote: str) -> bool:
    field = field.strip()
    return len(field) > 1 and field[0] == field[-1] == quote


def resolve_quotes(
    lines: Iterator[str],
    path: Path,
    *,
    delimiter: str,
    quotes: bool | None,
    key: str,
    notify: Callable[[str], None],
    error: type[Failure] = CorpusError,
) -> tuple[bool, Iterator[str]]:
    """Return whether quotes enclose the fields of a table, and its lines.

    Args:
        lines: of the table.
        path: its name in messages.
        delimiter: of its fields.
        quotes: what the settings say; None to find out.
        key: of the table of settings that has ``quotes``, for messages.
        notify: called with what was found out, where there are quotes around fields.
        error: class of the error.

    Raises:
        Failure: as ``check_unquoted``, while the lines are read.
    """
    if quotes is not None:
        return quotes, lines
    style, lines = sniff_quotes(lines, delimiter)
    if style.quoting:
        notify(f"{path}: quotes enclose its fields, and are removed (set {key}.quotes=false to keep them)")
        return True, lines
    if style.n_enclosed:
        notify(
            f"{path}: {style.n_enclosed:,} of the fields in its first {style.n_sampled:,} lines are in quotes, which "
            f"are kept as text (set {key}.quotes=true to remove them)"
        )
    return False, check_unquoted(lines, style, delimiter, path, key=key, error=error)


def read_sep_line(lines: Iterator[str]) -> tuple[str | None, Iterator[str]]:
    """Return the delimiter that Excel's first line ``sep=;`` names, if there is one, and the lines with that one blank.

    Args:
        lines: of the table.
    """
    first = next(lines, None)
    if first is None:
        return None, lines
    found = _SEP_LINE.fullmatch(first)
    return (found[1] if found else None), itertools.chain(["\n" if found else first], lines)


def looks_like_data(header: Sequence[str]) -> bool:
    """Whether the first row of a table has a number or a sentence, and so is no row of names."""
    return any(
        field.strip().isdigit()
        or len(field) > _MAX_NAME
        or len(field.split()) >= _MIN_SENTENCE_WORDS
        or field.rstrip().endswith(_SENTENCE_ENDS)
        for field in header
    )


def sniff_quotes(lines: Iterator[str], delimiter: str) -> tuple[QuoteStyle, Iterator[str]]:
    """Find out from the first lines of a table whether quotes enclose its fields; return also all of its lines.

    A quote that starts a field is a character like any other where the table cannot be read with quotes: where one is
    not closed, or text follows a closed one, or rows would differ in width.
    """
    sample: list[str] = []
    size = 0
    for line in lines:
        sample.append(line)
        size += len(line)
        if len(sample) == _SAMPLE_LINES or size > _SAMPLE_CHARACTERS:
            break
    enclosed = _enclosed_field(delimiter)
    n_enclosed = sum(1 for line in sample if '"' in line for _ in enclosed.finditer(line))
    is_whole = len(sample) < _SAMPLE_LINES and size <= _SAMPLE_CHARACTERS
    quoting = any('"' in line for line in sample) and _reads_with_quotes(sample, delimiter, is_whole=is_whole)
    return QuoteStyle(quoting, n_enclosed, len(sample)), itertools.chain(sample, lines)


def check_unquoted(
    lines: Iterator[str],
    style: QuoteStyle,
    delimiter: str,
    where: object,
    *,
    key: str,
    error: type[Failure] = CorpusError,
) -> Iterator[str]:
    """Yield the lines of a table that is read without quotes.

    Raises:
        Failure: of the class ``error``: after the lines that were looked at, a field is enclosed in quotes and has
            doubled quotes in it, so that what was concluded from those lines is in doubt.
    """
    enclosed = _enclosed_field(delimiter)
    for number, line in enumerate(lines, start=1):
        if number > style.n_sampled and '""' in line and any('""' in m[1] for m in enclosed.finditer(line)):
            raise error(
                "has a field in quotes with doubled quotes in it, unlike the lines before",
                where=f"{where}:{number}",
                fix=f"Set {key}.quotes=true if quotes enclose its fields, or {key}.quotes=false if they are text.",
            )
        yield line


def read_escaped_tab(delimiter: object) -> object:
    r"""Return a tab for the two characters \t, as shells pass them; anything else as it is."""
    return "\t" if delimiter == r"\t" else delimiter


def other_delimiter(header: Sequence[str], delimiter: str) -> str | None:
    """Return the delimiter that a header of one column seems to have instead of ``delimiter``."""
    if len(header) != 1:
        return None
    known = _DELIMITERS + ("" if looks_like_data(header) else _WIDE_DELIMITERS)  # they are in every sentence
    counts = {d: header[0].count(d) for d in known if d != delimiter}
    best = max(counts, key=lambda d: (d.isascii() and counts[d] > 0, counts[d]))
    return best if counts[best] else None


def _reads_with_quotes(sample: list[str], delimiter: str, *, is_whole: bool) -> bool:
    csv.field_size_limit(sum(map(len, sample)) + 1)
    reader = csv.reader(sample, delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    start = 0
    try:
        for row in reader:
            rows += [row] if row else []
            start = reader.line_num
    except csv.Error:
        # A sample may end within a field; a quote that is never closed takes more than half of the lines.
        if is_whole or reader.line_num < len(sample) or start < len(sample) // 2:
            return False
    if len({len(row) for row in rows}) > 1:
        return False
    enclosed = _enclosed_field(delimiter)
    if any('""' in m[1] or not m[1] for line in sample if '""' in line for m in enclosed.finditer(line)):
        return True
    # Where the lines are rectangular as they stand, quotes that enclose a delimiter or a line break do so by chance.
    counts = {line.count(delimiter) for line in sample if line.strip()}
    is_rectangular = len(counts) == 1 and counts != {0}
    if not is_rectangular and any(delimiter in field or "\n" in field for row in rows for field in row):
        return True
    plain = [line.rstrip("\r\n").split(delimiter) for line in sample[1:] if line.strip()]
    columns = zip(*plain, strict=False) if len(plain) >= _MIN_ROWS else ()
    return any(all(len(f) > 1 and f[0] == f[-1] == '"' for f in column) for column in columns)


def _enclosed_field(delimiter: str) -> re.Pattern[str]:
    """Match a field of a line that is enclosed in quotes; its group is what they enclose, doubled quotes included."""
    d = re.escape(delimiter)
    return re.compile(rf'(?:(?<=^)|(?<={d}))"((?:[^"]|"")*)"(?={d}|\r?\n?$)')
