"""What is kept of a source and what is dropped: filters, deduplication, the limit, the tally."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firstlight import progress
from firstlight.corpus import Corpus, CorpusSettings, Source, Tally, open_corpus
from firstlight.corpus import spool as spool_module
from firstlight.corpus.raw_source import RawSource
from firstlight.errors import CorpusError
from firstlight.types import Document


def source_of(documents: list[list[str]], **settings: Any) -> Source:
    """A source of documents, each given by its pieces."""

    def read(_: CorpusSettings, __: Tally) -> Iterator[Document]:
        for number, pieces in enumerate(documents):
            for i, piece in enumerate(pieces):
                yield Document(piece, f"s:{number}", {"n": number}, i + 1 < len(pieces))

    return Source(RawSource("s", read, 100, lambda: "id"), CorpusSettings.model_validate(settings))


def kept(source: Source) -> list[str]:
    whole, held = [], ""
    for document in source.documents():
        held += str(document.content)
        if not document.continues:
            whole.append(held)
            held = ""
    assert held == ""
    return whole


def dropped(source: Source) -> dict[str, int]:
    tally = source.tally
    assert tally.seen == tally.documents + sum(tally.dropped.values())
    return tally.dropped


def test_blank_documents_are_empty_short_or_long():
    source = source_of([[""], [" \n"], [" ", "\n", "\t"], [" ", "\n", "x", " "], ["y"]], min_characters=0)
    assert kept(source) == [" \nx ", "y"]
    assert dropped(source) == {"empty": 3}
    assert (source.tally.seen, source.tally.documents, source.tally.characters) == (5, 2, 5)


def test_short_documents_are_dropped_however_many_pieces_they_come_in():
    source = source_of([["abc"], ["abcd"], ["ab", "c"], ["ab", "cd"], ["a", "b", "c", "d", "e"]], min_characters=4)
    assert kept(source) == ["abcd", "abcd", "abcde"]
    assert dropped(source) == {"shorter than 4 characters": 2}


def test_a_document_seen_before_is_dropped_however_it_is_cut():
    source = source_of([["abcd"], ["ab", "cd"], ["x", "y"], ["xy"], ["x", "y", ""], ["z"]], dedup="exact")
    assert kept(source) == ["abcd", "xy", "z"]
    assert dropped(source) == {"seen before": 3}


def test_without_deduplication_the_same_document_is_kept_twice():
    source = source_of([["abcd"], ["ab", "cd"]])
    assert kept(source) == ["abcd", "abcd"]
    assert dropped(source) == {}


def test_deduplication_forgets_between_readings():
    source = source_of([["a"], ["a"]], dedup="exact")
    assert kept(source) == kept(source) == ["a"]


@pytest.mark.parametrize("spool", [1, 1 << 20])
def test_pieces_come_back_from_the_spool_as_they_were(monkeypatch: pytest.MonkeyPatch, spool: int):
    monkeypatch.setattr(spool_module, "_SPOOL_BYTES", spool)
    pieces = ["ä", "中文", "", "🙂 end"]
    source = source_of([pieces, pieces], dedup="exact")
    found = list(source.documents())
    assert [d.content for d in found] == pieces
    assert [d.continues for d in found] == [True, True, True, False]
    assert [d.meta for d in found] == [{"n": 0}] * 4


TEXTS = [["abc"], ["d", "ef"], ["中文"], ["g", "h", "i"]]


@pytest.mark.parametrize("limit", range(1, 20))
def test_the_limit_is_in_bytes_of_whole_characters(limit: int):
    source = source_of(TEXTS, max_bytes=limit)
    whole = "".join("".join(pieces) for pieces in TEXTS).encode()
    assert "".join(kept(source)) == whole[:limit].decode("utf-8", "ignore")
    assert dropped(source) in ({}, {"beyond corpus.max_bytes": 1})
    assert source.n_bytes == limit


def test_no_empty_document_is_made_by_the_limit():
    source = source_of(TEXTS, max_bytes=7)  # one byte into a character of three
    assert kept(source) == ["abc", "def"]
    source = source_of([["中"], ["a"]], max_bytes=1)
    with pytest.raises(CorpusError, match="holds no text"):
        kept(source)


def test_nothing_is_read_beyond_the_limit():
    def read(_: CorpusSettings, __: Tally) -> Iterator[Document]:
        yield Document("abc", "s", continues=True)
        yield Document("def", "s", continues=True)
        raise AssertionError("read too far")

    source = Source(RawSource("s", read, 100, lambda: ""), CorpusSettings(max_bytes=6))
    assert [(d.content, d.continues) for d in source.documents()] == [("abc", True), ("def", False)]


documents = st.lists(
    st.lists(st.sampled_from(["", " ", "a", "bc", "中文 ", "def\n"]), min_size=1, max_size=4), max_size=8
)


@example([["", "中文 "]], 0, "none", 1)
@given(documents, st.integers(0, 5), st.sampled_from(["none", "exact"]), st.none() | st.integers(1, 30))
def test_what_is_seen_is_kept_or_dropped(given_: list[list[str]], least: int, dedup: str, limit: int | None):
    source = source_of(given_, min_characters=least, dedup=dedup, max_bytes=limit)
    wanted = [t for t in ("".join(pieces) for pieces in given_) if t.strip() and len(t) >= least]
    if dedup == "exact":
        wanted = list(dict.fromkeys(wanted))
    whole = "".join(wanted).encode()[:limit].decode("utf-8", "ignore")
    if not whole:
        with pytest.raises(CorpusError, match="holds no text"):
            kept(source)
        return
    found = kept(source)
    assert "".join(found) == whole
    if limit is None:
        assert found == wanted
    dropped(source)
    assert (source.tally.documents, source.tally.characters) == (len(found), len(whole))


def test_a_source_of_nothing_says_what_was_dropped():
    with pytest.raises(CorpusError, match=r"s: holds no text \(found 2 empty, 1 shorter than 3 characters\)"):
        kept(source_of([[""], ["ab"], [" "]], min_characters=3))
    with pytest.raises(CorpusError, match=r"s: holds no text \(found no document\)"):
        kept(source_of([]))


def test_arrays_pass():
    array = np.arange(4, dtype=np.int32)

    def read(_: CorpusSettings, __: Tally) -> Iterator[Document]:
        yield Document(array, "s")
        yield Document(array[:0], "s")
        yield Document(array, "s")

    for settings, n in ((CorpusSettings(min_characters=100), 2), (CorpusSettings(max_bytes=10), 1)):
        source = Source(RawSource("s", read, 0, lambda: ""), settings)
        assert [d.content is array for d in source.documents()] == [True] * n


def test_a_long_document_is_never_held(tmp_path: Path):
    path = tmp_path / "a.txt"
    with path.open("w") as file:
        for i in range(400):
            file.write(f"{i} " * 20_000)
    for settings in (CorpusSettings(dedup="exact"), CorpusSettings(max_bytes=10**9)):
        tracemalloc.start()
        try:
            for _ in open_corpus([str(path)], settings):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The spool keeps 8 MiB before it goes to the disk.
        assert peak < (24 << 20 if settings.dedup == "exact" else 8 << 20) < path.stat().st_size


def test_the_same_novel_twice_in_a_folder_is_one(tmp_path: Path):
    text = "".join(f"line {i} of a long novel\n" for i in range(60_000))
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(text)
    corpus = open_corpus([str(tmp_path)], CorpusSettings(dedup="exact"))
    assert "".join(str(d.content) for d in corpus) == text
    assert corpus.tally.dropped == {"seen before": 1}


def test_a_corpus_adds_its_sources_up(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"one \xff")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": ""}\n{"text": null}')
    corpus = open_corpus([str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")], CorpusSettings(on_bad_bytes="skip"))
    assert [d.content for d in corpus] == ["one ", "two"]
    tally = corpus.tally
    assert (tally.seen, tally.documents, tally.characters) == (4, 2, 7)
    assert tally.dropped == {"empty": 1, "null": 1}
    assert (tally.n_bad, tally.bad_bytes) == (1, [f"{tmp_path}/a.txt: byte 4"])
    assert tally.to_json()["dropped"] == {"empty": 1, "null": 1}


def test_bad_bytes_are_reported_once(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"one \xff, \xfe, \xfd, \xfc")
    [source] = open_corpus([str(tmp_path / "a.txt")], CorpusSettings(on_bad_bytes="replace")).sources
    events: list[progress.Event] = []
    with progress.listen(events.append):
        for _ in range(2):
            assert kept(source) == ["one \ufffd, \ufffd, \ufffd, \ufffd"]
    [warning] = [e for e in events if e.level == "warning"]
    assert "4 bytes are not UTF-8 and were replaced" in warning.text
    assert f"a.txt: byte 4, {tmp_path}" in warning.text


def test_few_places_are_kept_of_many():
    tally = Tally()
    for i in range(100):
        tally.add_bad_bytes(f"f: byte {i}")
    other = Tally(bad_bytes=["f: byte 100"])
    tally.add(other)
    assert tally.bad_bytes == [f"f: byte {i}" for i in range(20)]


def test_a_fingerprint_changes_with_bytes_names_and_settings(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("one")

    def fingerprint(**settings: Any) -> str:
        return open_corpus([str(path)], CorpusSettings.model_validate(settings)).sources[0].fingerprint()

    first = fingerprint()
    assert first == fingerprint()
    assert first != fingerprint(dedup="exact")
    path.write_text("two")
    assert first != fingerprint()
    path.write_text("one")
    assert first == fingerprint()


def test_a_fingerprint_is_computed_once():
    calls = []
    source = Source(RawSource("s", lambda *_: iter(()), 0, lambda: str(calls.append(1))), CorpusSettings())
    assert source.fingerprint() == source.fingerprint()
    assert calls == [1]


def test_the_files_of_all_names_are_one_source(tmp_path: Path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    names = [str(tmp_path / "b.txt"), str(tmp_path / "a.txt")]
    corpus = open_corpus(names)
    assert isinstance(corpus, Corpus)
    assert [s.name for s in corpus.sources] == [", ".join(names)]
    assert [d.content for d in corpus] == ["a", "b"]
    assert [s.name for s in open_corpus(names, separate=True).sources] == names
    assert [d.content for d in open_corpus(names, separate=True)] == ["b", "a"]
