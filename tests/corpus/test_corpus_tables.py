"""CSV with quotes, TSV without, and rows that do not fit their header."""

from pathlib import Path

import pytest

from firstlight.corpus import CorpusSettings, Tally, open_corpus
from firstlight.corpus.readers import READERS
from firstlight.errors import CorpusError
from firstlight.types import Document


def read(folder: Path, suffix: str, content: str, **settings: object) -> list[Document]:
    path = folder / f"a{suffix}"
    path.write_bytes(content.encode())
    return list(READERS[suffix].read(path, CorpusSettings.model_validate(settings), Tally()))


def pairs(documents: list[Document]) -> list[tuple[str, str]]:
    return [(d.source.rpartition(":")[2], str(d.content)) for d in documents]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quotes_hold_commas_quotes_and_line_ends(tmp_path: Path, end: str):
    content = end.join(["id,text", '1,"a, ""b""', "", 'c"', "", "2,d", ""])
    assert pairs(read(tmp_path, ".csv", content)) == [("2", 'a, "b"\n\nc'), ("6", "d")]


def test_quoted_line_ends_are_kept_where_asked(tmp_path: Path):
    assert pairs(read(tmp_path, ".csv", 'id,text\r\n1,"a\r\nb"\r\n', newlines="keep")) == [("2", "a\r\nb")]


@pytest.mark.parametrize("content", ["id,text", "id,text\n", "id,text\r\n\r\n"])
def test_a_header_alone_holds_no_text(tmp_path: Path, content: str):
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    with pytest.raises(CorpusError, match="holds no text .found no document."):
        list(open_corpus([str(path)]))


@pytest.mark.parametrize(
    ("suffix", "content", "line", "problem"),
    [
        (".csv", 'id,text\n1,a\n2,"never\nclosed\n', 3, "opens a quoted field that is never closed"),
        (".csv", '"id,text\n', 1, "opens a quoted field that is never closed"),
        (".csv", 'id,text\n1,"a"b\n', 2, "malformed row"),
        (".csv", "id,text\n1,a\n2\n", 3, "has fewer fields than the first row (found 1; expected 2)"),
        (".csv", "text,id\na\n", 2, "has fewer fields than the first row (found 1; expected 2)"),
        (".csv", "id,text\n1,one, two\n", 2, "has more fields than the first row (found 3; expected 2)"),
        (".tsv", "id\ttext\n1\ta\tb\n", 2, "has more fields than the first row (found 3; expected 2)"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, suffix: str, content: str, line: int, problem: str):
    with pytest.raises(CorpusError) as caught:
        read(tmp_path, suffix, content)
    assert str(caught.value).startswith(f"{tmp_path}/a{suffix}:{line}: {problem}")


def test_commas_at_the_end_of_a_row_are_harmless(tmp_path: Path):
    assert pairs(read(tmp_path, ".csv", "id,text\n1,a,,\n")) == [("2", "a")]


def test_a_quote_in_tsv_is_a_character(tmp_path: Path):
    content = 'id\ttext\n1\t"He said\n2\t"yes" he said\n3\tno"\n'
    assert pairs(read(tmp_path, ".tsv", content)) == [("2", '"He said'), ("3", '"yes" he said'), ("4", 'no"')]


def test_a_table_without_header_shows_what_it_took_for_one(tmp_path: Path):
    with pytest.raises(CorpusError, match="has no column 'text'") as caught:
        read(tmp_path, ".csv", f"0,{'a long review ' * 100}\n1,good\n")
    assert len(str(caught.value.found)) < 100


def test_a_field_longer_than_the_library_likes(tmp_path: Path):
    text = "x" * 300_000
    assert [d.content for d in read(tmp_path, ".csv", f'text\n"{text}"\n')] == [text]


def test_another_delimiter_is_named_and_can_be_set(tmp_path: Path):
    content = "text;label\na, b;1\nc;2\n"
    with pytest.raises(CorpusError, match="found columns text;label.*Name the delimiter: 'corpus.delimiter=\";\"'"):
        read(tmp_path, ".csv", content)
    assert pairs(read(tmp_path, ".csv", content, delimiter=";")) == [("2", "a, b"), ("3", "c")]


def test_two_columns_of_one_name(tmp_path: Path):
    with pytest.raises(CorpusError, match=r"a.csv:1: two columns have the same name .found text"):
        read(tmp_path, ".csv", "text,text\na,b\n")


def test_quotes_of_a_tsv_are_found_out(tmp_path: Path):
    content = 'id\ttext\n1\t"a ""b""\nc"\n2\td\n'
    assert pairs(read(tmp_path, ".tsv", content)) == [("2", 'a "b"\nc'), ("4", "d")]
    with pytest.raises(CorpusError, match="has fewer fields than the first row"):
        read(tmp_path, ".tsv", content, quotes=False)
    assert pairs(read(tmp_path, ".csv", 'text\n"a"\n', quotes=False)) == [("2", '"a"')]


def test_the_column_with_the_longest_text_is_advised(tmp_path: Path):
    content = "id,title,content\n7,short,a longer one\n"
    with pytest.raises(CorpusError, match="Name the column: corpus.text_field=content"):
        read(tmp_path, ".csv", content, text_field="none")
    assert pairs(read(tmp_path, ".csv", content, text_field=["title", "content"])) == [("2", "short\na longer one")]
    with pytest.raises(CorpusError, match="has no column 'none'"):
        read(tmp_path, ".csv", content, text_field=["title", "none"])
