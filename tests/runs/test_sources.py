"""Inputs of a run are stored so that they hold from any folder."""

from pathlib import Path

import pytest

from firstlight.config import Settings
from firstlight.runs.sources import absolute_sources, is_missing, is_same_source


class Run(Settings):
    corpus: list[str] = []
    store: str | None = None


class Tables(Settings):
    run: Run = Run()


def test_files_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    names = ["a.txt", "python-docs", "hf:owner/name", "-", "*.txt", "hf:*", "none.txt"]
    found = absolute_sources(Tables(run=Run(corpus=names)), ("run.corpus", "run.store")).run
    expected = [str(tmp_path / "a.txt"), "python-docs", "hf:owner/name", "-", str(tmp_path / "*.txt"), *names[-2:]]
    assert found.corpus == expected and found.store is None


def test_the_same_files_may_be_spelled_in_two_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_same_source(["a.txt"], [str(tmp_path / "a.txt")]) and not is_same_source(["a.txt"], ["b.txt"])
    (tmp_path / "a.txt").write_text("")
    assert not is_missing("a.txt") and is_missing(["a.txt", "b.txt"]) and not is_missing(None)
