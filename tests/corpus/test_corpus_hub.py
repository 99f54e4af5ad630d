"""``hf:NAME`` through a stand-in for datasets, which the tests' own install leaves out."""

import builtins
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import CorpusError, MissingExtra, UsageError

Load = Callable[..., Iterator[dict[str, Any]]]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Load], None]:
    def put(load: Load) -> None:
        module = types.ModuleType("datasets")
        module.load_dataset = load  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "datasets", module)

    return put


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("hf:owner/set", ("owner/set", None, "train")),
        ("hf:owner/set@valid", ("owner/set", None, "valid")),
        ("hf:owner/set:small", ("owner/set", "small", "train")),
        ("hf:owner/set:small@dev", ("owner/set", "small", "dev")),
    ],
)
def test_what_is_asked_of_datasets(stand_in: Callable[[Load], None], name: str, asked: tuple[str | None, ...]):
    calls = []

    def load(path: str, config: str | None, *, split: str, streaming: bool) -> Iterator[dict[str, Any]]:
        calls.append((path, config, split, streaming))
        yield {"body": "one\r\n", "id": 1}
        yield {"body": None, "id": 2}
        yield {"body": "two", "id": 3}

    stand_in(load)
    [source] = open_corpus([name], CorpusSettings(text_field="body")).sources
    for _ in range(2):
        assert [(d.source, d.content) for d in source.documents()] == [
            (f"{name}: row 1", "one\n"),
            (f"{name}: row 3", "two"),
        ]
        assert source.tally.dropped == {"null": 1}
    assert calls == [(*asked, True)] * 2
    assert source.n_bytes == 0


def test_a_missing_field_is_named(stand_in: Callable[[Load], None]):
    stand_in(lambda *_, **__: iter([{"texts": "one"}]))
    with pytest.raises(CorpusError, match="hf:set: row 1: has no field 'text'.*corpus.text_field=texts"):
        list(open_corpus(["hf:set"]))


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("no config"), RuntimeError("script")])
def test_an_error_of_the_library_is_ours(stand_in: Callable[[Load], None], error: Exception):
    def load(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        raise error

    stand_in(load)
    with pytest.raises(CorpusError, match=f"hf:set: cannot be read: {error}"):
        list(open_corpus(["hf:set"]))


def test_an_error_in_the_midst_is_ours(stand_in: Callable[[Load], None]):
    def load(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        yield {"text": "one"}
        raise OSError("connection reset")

    stand_in(load)
    documents = open_corpus(["hf:set"]).sources[0].documents()
    assert next(documents).content == "one"
    with pytest.raises(CorpusError, match="connection reset"):
        next(documents)


def test_a_limit_stops_the_stream(stand_in: Callable[[Load], None]):
    def load(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        for _n in range(3):
            yield {"text": "four"}
        raise AssertionError("read too far")

    stand_in(load)
    assert [d.content for d in open_corpus(["hf:set"], CorpusSettings(max_bytes=10))] == ["four", "four", "fo"]


def test_a_local_folder_is_known_by_its_bytes(stand_in: Callable[[Load], None], tmp_path: Path):
    stand_in(lambda *_, **__: iter([{"text": "one"}]))
    (tmp_path / "train.jsonl").write_text('{"text": "one"}')

    def fingerprint(name: str) -> str:
        return open_corpus([name]).sources[0].fingerprint()

    first = fingerprint(f"hf:{tmp_path}")
    assert first == fingerprint(f"hf:{tmp_path}") != fingerprint(f"hf:{tmp_path}@valid")
    (tmp_path / "train.jsonl").write_text('{"text": "two"}')
    assert first != fingerprint(f"hf:{tmp_path}")
    assert fingerprint("hf:set") == fingerprint("hf:set") != fingerprint("hf:other")


def test_without_a_name(stand_in: Callable[[Load], None]):
    stand_in(lambda *_, **__: iter([]))
    with pytest.raises(UsageError, match="hf:@train: names no data set"):
        open_corpus(["hf:@train"])


def test_datasets_is_an_extra(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def no_datasets(name: str, *args: object, **kwargs: object) -> object:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_datasets)
    with pytest.raises(MissingExtra, match=r"pip install .*datasets"):
        open_corpus(["hf:set"])
