"""Whether quotes enclose the fields of a table; the expected rows are those of pandas where it reads the table."""

import io
from pathlib import Path

import pytest

from firstlight.errors import CorpusError
from firstlight.files.table_dialect import other_delimiter, resolve_quotes
from firstlight.files.tables import iter_rows


def read(text: str, quotes: bool | None = None) -> tuple[bool, list[object], list[str]]:
    notes: list[str] = []
    lines = iter(io.StringIO(text, newline=""))
    quoting, lines = resolve_quotes(lines, Path("x"), delimiter="\t", quotes=quotes, key="data", notify=notes.append)
    return quoting, [row for _, row in iter_rows(lines, Path("x"), delimiter="\t", quoting=quoting)][1:], notes


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('text\tlabel\n"a ""b"""\t1\nc\t2\n', [['a "b"', "1"], ["c", "2"]]),
        ('label\ttext\n1\t"a ""b"""\n2\t"c"', [["1", 'a "b"'], ["2", "c"]]),
        ('"text"\t"label"\n"yes"\t"1"\n"no"\t"2"\n', [["yes", "1"], ["no", "2"]]),
        ('text\tlabel\r\n"a\r\nb"\t1\r\nc\t2\r\n', [["a\r\nb", "1"], ["c", "2"]]),
        ('text\tlabel\n"a\tb"\t1\nc\t2\n', [["a\tb", "1"], ["c", "2"]]),
        ('text\tlabel\n""\t1\nc\t2\n', [["", "1"], ["c", "2"]]),
    ],
)
def test_quotes_that_enclose_fields_are_removed(text: str, rows: list[list[str]]) -> None:
    quoting, found, notes = read(text)
    assert quoting and found == rows
    assert notes == ["x: quotes enclose its fields, and are removed (set data.quotes=false to keep them)"]
    assert read(text, quotes=True)[2] == []


@pytest.mark.parametrize(
    ("rows", "n_enclosed"),
    [
        ([['5" disk', "1"], ['3" disk', "2"]], 0),
        ([['"yes" he said', "1"], ["no", "2"]], 0),
        ([['"yes he said', "1"], ["no", "2"]], 0),
        ([["'yes'", "1"], ["it's", "2"]], 0),
        ([['"yes"', "1"], ["no", "2"]], 1),
        ([['"a ""b"""', "1"], ['"yes he said', "2"]], 1),
        ([['"Hi," he said, "you."', "1"], ['"Yes."', "2"]], 1),
    ],
)
def test_quotes_that_are_text_are_kept_and_said_where_they_are_around_a_field(
    rows: list[list[str]], n_enclosed: int
) -> None:
    quoting, found, notes = read("text\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows))
    assert not quoting and found == rows
    assert [note.partition(" of ")[0] for note in notes] == ["x: 1"] * n_enclosed


def test_quotes_after_the_lines_that_decided() -> None:
    rows = "".join(f"row {i}\t1\n" for i in range(3000))
    with pytest.raises(CorpusError, match=r"x:3002: has a field in quotes with doubled quotes .*data.quotes=true"):
        read(f'text\tlabel\n{rows}"a ""b"""\t1\n')
    assert len(read(f'text\tlabel\n{rows}5" ""disk\t1\n')[1]) == 3001


def test_a_sample_that_ends_within_a_field() -> None:
    rows = "".join(f'"row ""{i}""\nmore"\t1\n' for i in range(1500))
    quoting, found, _ = read(f"text\tlabel\n{rows}")
    assert quoting and len(found) == 1500


@pytest.mark.parametrize(("header", "other"), [(["a;b"], ";"), (["a\tb"], "\t"), (["a|b|c,d"], "|"), (["a"], None)])
def test_another_delimiter(header: list[str], other: str | None) -> None:
    assert other_delimiter(header, ",") == other
    assert other_delimiter([*header, "x"], ",") is None
