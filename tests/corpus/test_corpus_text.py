"""What is one document of a text file: the file, a paragraph, a line."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.corpus import CorpusSettings, Tally, open_corpus
from firstlight.corpus.decode import CHUNK_BYTES
from firstlight.corpus.readers.text import TextReader, as_one_document
from firstlight.types import Document


def read(path: Path, **settings: str) -> list[Document]:
    return list(TextReader().read(path, CorpusSettings.model_validate(settings), Tally()))


def pairs(documents: list[Document]) -> list[tuple[str, str]]:
    return [(d.source.rpartition(":")[2], str(d.content)) for d in documents]


def test_a_long_file_is_one_document_in_pieces(tmp_path: Path):
    path = tmp_path / "a.txt"
    text = "0123456789\n" * (CHUNK_BYTES // 4)
    path.write_text(text)
    documents = read(path)
    assert [d.continues for d in documents] == [True, True, False]
    assert "".join(str(d.content) for d in documents) == text
    assert {d.source for d in documents} == {str(path)}


@given(st.lists(st.text(min_size=1)))
def test_pieces_of_one_document_hang_together(texts: list[str]):
    found = list(as_one_document(iter(texts), "s"))
    assert [d.content for d in found] == (texts or [""])
    assert [d.continues for d in found] == [True] * (len(found) - 1) + [False]


@pytest.mark.parametrize("end", ["", "\n"])
def test_lines(tmp_path: Path, end: str):
    path = tmp_path / "a.txt"
    path.write_text(f"one\n\n two \nthree{end}")
    assert pairs(read(path, text_split="lines")) == [("1", "one"), ("2", ""), ("3", " two "), ("4", "three")]


@pytest.mark.parametrize("end", ["", "\n", "\n\n \n"])
def test_paragraphs_begin_where_they_say(tmp_path: Path, end: str):
    path = tmp_path / "a.txt"
    path.write_bytes(f"\n\none\n  more\n \t\n\ntwo\r\n\r\nthree{end}".encode())
    assert pairs(read(path, text_split="blank-lines")) == [("3", "one\n  more"), ("7", "two"), ("9", "three")]


@pytest.mark.parametrize("split", ["lines", "blank-lines"])
def test_an_empty_file_has_no_line(tmp_path: Path, split: str):
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    assert read(path, text_split=split) == []


@pytest.mark.parametrize("line", ["plain ASCII, the most frequent case\n", "‘curly’ and 中文 too\n", "with CRLF\r\n"])
def test_plain_text_is_fast(tmp_path: Path, line: str):
    """At 60 MB/s for all of ``data prepare``, reading may take little of it; measured: 400 to 4,000 MB/s."""
    path = tmp_path / "a.txt"
    data = line.encode() * ((64 << 20) // len(line.encode()))
    path.write_bytes(data)
    seconds = []
    for _ in range(3):
        before = time.process_time()
        n = sum(len(d.content) for d in open_corpus([str(path)]))
        seconds.append(time.process_time() - before)
    assert n == len(data.decode().replace("\r\n", "\n"))
    assert len(data) / 1e6 / min(seconds) > 150


def test_a_special_token_in_a_text_is_text(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("a<|endoftext|>b")
    assert pairs(read(path)) == [(str(path), "a<|endoftext|>b")]
