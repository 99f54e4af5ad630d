"""The corpora that every Python has."""

import ast
import builtins
import sys
from pathlib import Path

import pytest

from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.corpus.embedded import python_code, python_docs
from firstlight.errors import CorpusError


def test_python_code_is_the_standard_library_without_its_tests():
    [source] = open_corpus(["python-code"]).sources
    documents = {d.source: str(d.content) for d in source.documents()}
    assert ast.parse(documents["python-code/ast.py"])
    assert "python-code/json/decoder.py" in documents
    assert not [name for name in documents if "/test/" in name or "site-packages" in name or "/test_" in name]
    tally = source.tally
    assert tally.seen == tally.documents + sum(tally.dropped.values())
    assert tally.documents > 400
    assert "\r" not in "".join(documents.values())
    # Enough for a quickstart; not so much that it is slow.
    assert 5e6 < tally.characters < source.n_bytes < 80e6


def test_python_code_is_the_same_each_time():
    sources = [open_corpus(["python-code"]).sources[0] for _ in range(2)]
    assert sources[0].fingerprint() == sources[1].fingerprint()
    first = [d.source for d in sources[0].documents()]
    assert first == [d.source for d in sources[1].documents()] == sorted(set(first), key=lambda s: s.split("/"))


def test_sources_of_another_encoding_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "good.py").write_text("good = 1\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x.py").write_text("no = 1\n")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    [source] = open_corpus(["python-code"]).sources
    assert [(d.source, d.content) for d in source.documents()] == [("python-code/good.py", "good = 1\n")]
    assert (source.tally.seen, source.tally.dropped) == (2, {"not UTF-8": 1})


def test_lines_of_python_code_have_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "a.py").write_text("x = 1\ny = 2\n")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    found = open_corpus(["python-code"], CorpusSettings(text_split="lines"))
    assert [(d.source, d.content) for d in found] == [("python-code/a.py:1", "x = 1"), ("python-code/a.py:2", "y = 2")]


def test_python_docs_are_the_topics_of_help():
    [source] = open_corpus(["python-docs"]).sources
    documents = {d.source: str(d.content) for d in source.documents()}
    assert "lambda" in documents["python-docs/lambda"]
    assert len(documents) > 50
    assert source.tally.characters > 300_000
    assert source.n_bytes == sum(len(t.encode()) for t in documents.values())
    assert source.fingerprint() == open_corpus(["python-docs"]).sources[0].fingerprint()
    assert python_docs().content_hash() != python_code().content_hash()


def test_a_python_without_its_reference_says_so(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def no_topics(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pydoc_data"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pydoc_data.topics", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_topics)
    with pytest.raises(CorpusError, match=r"python-docs: this Python has no pydoc_data. Use the corpus python-code."):
        python_docs()
