"""What a name stands for: files, folders, patterns, standard input, and what is said where it stands for nothing."""

import io
import os
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from firstlight import progress
from firstlight.corpus import CorpusSettings, corpus_names, open_corpus
from firstlight.corpus.sources import resolve_source
from firstlight.errors import CorpusError, UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(*what: str, **settings: str) -> list[tuple[str, str]]:
    return [(d.source, str(d.content)) for d in open_corpus(what, CorpusSettings.model_validate(settings))]


def notices(*what: str) -> list[str]:
    events: list[progress.Event] = []
    with progress.listen(events.append):
        read(*what)
    return [e.text for e in events if e.text]


def test_a_folder_is_read_in_order_without_hidden_files(here: Path):
    put(here, books__b_txt="b", books__a__z_md="z", books__a_jsonl='{"text": "j"}', books___hidden_txt="no")
    put(here, books__a___git__config_txt="no", books__picture_png="no")
    assert [text for _, text in read("books")] == ["z", "j", "b"]
    assert notices("books") == [
        "books: 2 files skipped: 2 hidden (books/a/.git); corpus.skip=false reads them",
        "books: 1 of 4 files left out, no reader for .png",
    ]
    assert notices("books/a") == ["books/a: 1 file skipped: 1 hidden (books/a/.git); corpus.skip=false reads them"]


@pytest.mark.parametrize(("content", "found"), [({}, "nothing"), ({"a_png": "", "b_pdf": ""}, ".pdf, .png")])
def test_a_folder_without_text_says_what_it_holds(here: Path, content: dict[str, str], found: str):
    (here / "folder").mkdir()
    put(here / "folder", **content)
    with pytest.raises(CorpusError, match="holds no file that can be read as text") as caught:
        resolve_source("folder")
    assert caught.value.found == found


def test_patterns(here: Path):
    put(here, a__one_txt="1", a__b__two_txt="2", a__three_md="3", a__four_png="4")
    assert [t for _, t in read("a/*.txt")] == ["1"]
    assert [t for _, t in read(str(here / "a" / "**" / "*.txt"))] == ["2", "1"]
    assert [t for _, t in read("a/*")] == ["1", "3"]
    assert notices("a/*") == [
        "a/*: 1 folder matches and is not read: a/b. Write ** to read what is in it.",
        "a/*: 1 of 3 files left out, no reader for .png",
    ]
    put(here, a__b__c__d__two_txt="3")
    assert [t for _, t in read("a/**/b/**/*.txt")] == ["3", "2"]
    assert [t for _, t in read("**/two.txt")] == ["3", "2"]
    with pytest.raises(UsageError, match=r"a/\*\.csv: matches no file"):
        resolve_source("a/*.csv")


def test_files_of_unknown_suffix_alone_are_text(here: Path):
    put(here, one_log="1", two_log="2", README="3")
    assert read("README") == [("README", "3")]
    assert notices("README") == ["README: no reader for no suffix; read as plain text"]
    assert [t for _, t in read("*.log")] == ["1", "2"]
    assert notices("*.log") == ["*.log: no reader for .log; read as plain text"]


def test_a_file_with_signs_of_a_pattern_is_itself(here: Path):
    put(here, **{"a[1]_txt": "one", "a1_txt": "two"})
    assert read("a[1].txt") == [("a[1].txt", "one")]


def test_a_path_wins_over_a_corpus_of_that_name(here: Path):
    (here / "text8").write_text("mine")
    assert read("text8") == [("text8", "mine")]


def test_home_is_expanded(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(here))
    put(here, a_txt="one")
    assert read("~/a.txt") == [(str(here / "a.txt"), "one")]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("inptu.txt", "Did you mean input.txt?"),
        ("books/chapter2.txt", "Did you mean books/chapter1.txt?"),
        ("tinyshakespear", "Did you mean tinyshakespeare?"),
        ("python-cod", "Did you mean python-code?"),
        ("nowhere/at/all/zzz", "Named corpora: enwik8, python-code"),
        ("~nobody-of-this-name/qqq", "Named corpora"),
        ("once upon a time " * 1000, "Named corpora"),
    ],
)
def test_a_name_that_stands_for_nothing(here: Path, name: str, fix: str):
    put(here, input_txt="", books__chapter1_txt="")
    with pytest.raises(UsageError, match="no such file, folder or corpus") as caught:
        resolve_source(name)
    assert fix in str(caught.value.fix)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 500


def test_every_name_is_known():
    assert {"python-code", "python-docs", "tinyshakespeare", "wikitext-2", "text8", "tinystories"} <= set(
        corpus_names()
    )


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("split", "found"),
    [
        ("file", [("standard input", "one\n\ntwo\n")]),
        ("blank-lines", [("standard input:1", "one"), ("standard input:3", "two")]),
    ],
)
def test_standard_input_is_read_as_often_as_needed(monkeypatch: pytest.MonkeyPatch, split: str, found: list):
    standard_input(monkeypatch, b"one\r\n\r\ntwo\r\n")
    [source] = open_corpus(["-"], CorpusSettings.model_validate({"text_split": split})).sources
    for _ in range(2):
        assert [(d.source, d.content) for d in source.documents()] == found
    assert source.n_bytes == 12
    assert source.fingerprint() == source.fingerprint()


def test_bad_bytes_of_standard_input_are_named(monkeypatch: pytest.MonkeyPatch):
    standard_input(monkeypatch, b"abc\xff")
    with pytest.raises(CorpusError, match="standard input: byte 3: is not UTF-8"):
        read("-")


def test_nothing_on_standard_input(monkeypatch: pytest.MonkeyPatch):
    standard_input(monkeypatch, b"")
    with pytest.raises(CorpusError, match="-: holds no text"):
        read("-")


@pytest.mark.skipif(os.name != "posix", reason="an open file has a name")
def test_the_copy_of_standard_input_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    standard_input(monkeypatch, b"text")
    corpus = open_corpus(["-"])
    assert list(tmp_path.iterdir()) == []
    readings = zip(corpus, corpus, strict=True)
    assert [(one.content, two.content) for one, two in readings] == [("text", "text")]


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_pipe_is_read_once_and_kept(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"one\ntwo\n",))
    writer.start()
    [source] = open_corpus([str(pipe)]).sources
    writer.join()
    for _ in range(2):
        assert [(d.source, d.content) for d in source.documents()] == [(str(pipe), "one\ntwo\n")]
    assert source.n_bytes == 8
