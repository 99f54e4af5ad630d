"""Records from delimited text, JSON lines and Parquet: row numbers, quoting, truncated files, error classes."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.errors import CorpusError, StoreError
from firstlight.files.tables import (
    TRUNCATED,
    check_header,
    check_width,
    iter_json_lines,
    iter_parquet,
    iter_rows,
)

PATH = Path("t.csv")
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=8)


def lines(text: str) -> Iterator[str]:
    return iter(text.splitlines(keepends=True))


@given(rows=st.lists(st.lists(cells, min_size=2, max_size=2), max_size=5))
def test_what_csv_writes_is_read(rows: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    found = list(iter_rows(iter(io.StringIO(out.getvalue(), newline="\n")), PATH))
    assert [row for _, row in found] == rows
    starts = [1 + sum(str(cell).count("\n") for row in rows[:i] for cell in row) + i for i in range(len(rows))]
    assert [number for number, _ in found] == starts


def test_without_quoting_a_quote_is_a_character() -> None:
    assert list(iter_rows(lines('a\t"b\n\n"c"\td\n'), PATH, delimiter="\t", quoting=False)) == [
        (1, ["a", '"b']),
        (3, ['"c"', "d"]),
    ]


def test_max_fields_leaves_delimiters_in_the_last() -> None:
    assert list(iter_rows(lines("a b c d\n  \nx y\n"), PATH, delimiter=" ", max_fields=2)) == [
        (1, ["a", "b c d"]),
        (3, ["x", "y"]),
    ]


def test_an_open_quote_on_the_last_line_may_be_a_cut() -> None:
    cut = 'a,b\nc,"d'
    assert list(iter_rows(lines(cut), PATH, allow_truncated=True)) == [(1, ["a", "b"]), (2, TRUNCATED)]
    with pytest.raises(CorpusError, match="t.csv:2: opens a quoted field that is never closed. Close it."):
        list(iter_rows(lines(cut), PATH, fix="Close it."))
    with pytest.raises(StoreError, match="t.csv:1: opens a quoted field"):
        list(iter_rows(lines('a,"b\nc,d\n'), PATH, allow_truncated=True, error=StoreError))
    with pytest.raises(StoreError, match="t.csv:1: malformed row"):
        list(iter_rows(lines('"a"b,c\n'), PATH, allow_truncated=True, error=StoreError))


def test_width_and_header() -> None:
    check_width(["a", "b"], 2, "w")
    check_width(["a", "b", "", ""], 2, "w", allow_blank=True)
    for row, word in ((["a"], "fewer"), (["a", "b", ""], "more")):
        with pytest.raises(StoreError, match=f"w: has {word} fields than the first row .found {len(row)}; expected 2"):
            check_width(row, 2, "w", error=StoreError)
    check_header(["", "", "a"], "w")
    with pytest.raises(StoreError, match="w: two columns have the same name .found a"):
        check_header(["a", "b", "a"], "w", error=StoreError)


def test_json_lines() -> None:
    cut = '{"a": 1}\n\nnull\n{"a'
    assert list(iter_json_lines(lines(cut), PATH, allow_truncated=True)) == [(1, {"a": 1}), (3, None), (4, TRUNCATED)]
    with pytest.raises(CorpusError, match="t.csv:4: is not valid JSON"):
        list(iter_json_lines(lines(cut), PATH))
    with pytest.raises(StoreError, match="t.csv:1: is not valid JSON"):
        list(iter_json_lines(lines("{\n"), PATH, allow_truncated=True, error=StoreError))


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    records = [{"a": i, "b": str(i)} for i in range(600)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    assert list(iter_parquet(path)) == list(enumerate(records, start=1))
    assert next(iter_parquet(path, select=lambda names: names[1:])) == (1, {"b": "0"})
    path.write_bytes(json.dumps(records).encode())
    with pytest.raises(StoreError, match="not a readable Parquet file"):
        list(iter_parquet(path, error=StoreError))
