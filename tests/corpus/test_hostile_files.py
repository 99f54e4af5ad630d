"""Hostile files in a corpus: one bad document is named and can be skipped, links stay inside, limits hold."""

import bz2
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight import progress
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.corpus.raw_source import read_files
from firstlight.corpus.readers.markup import _visible
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files import limits as limits_module
from firstlight.files.folders import list_folder, list_glob
from firstlight.files.tables import iter_parquet
from firstlight.types import Document

SKIP = {"on_bad_document": "skip"}
SMALL = {"limits": {"max_document_bytes": 1 << 16}}


def read(path: Path, **settings: Any) -> list[str]:
    return [str(d.content) for d in open_corpus([str(path)], CorpusSettings.model_validate(settings))]


def tally(path: Path, **settings: Any) -> tuple[Tally, list[str]]:
    events: list[progress.Event] = []
    corpus = open_corpus([str(path)], CorpusSettings.model_validate(settings))
    with progress.listen(events.append):
        for _ in corpus:
            pass
    return corpus.tally, [event.text for event in events if event.level == "warning"]


@pytest.mark.parametrize(
    "piece",
    ["<a <", "a <", "<![ if", "<!--", "&", "&#", "&#x0", "<div>", "<a x=", "<a x='", "</", "<?", "<!", "<script>", "<"],
)
def test_malformed_html_takes_linear_time(piece: str) -> None:
    page = piece * (400_000 // len(piece))
    start = time.thread_time()
    sum(map(len, _visible(iter([page[i : i + 4096] for i in range(0, len(page), 4096)]))))
    assert time.thread_time() - start < 5


@given(
    st.lists(
        st.sampled_from(
            [*"<>&;=/!-'\" \nax", "<!--", "-->", "<![", "</a", "<a ", "<script>", "</script>", "&amp;", "&#65;", "&#x"]
        ),
        max_size=30,
    ),
    st.integers(1, 5),
)
def test_borders_within_malformed_html_change_nothing(pieces: list[str], size: int) -> None:
    page = "".join(pieces)
    whole = "".join(_visible(iter([page])))
    assert "".join(_visible(iter([page[i : i + size] for i in range(0, len(page), size)]))) == whole


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("a<![ if !x]>b<![endif]>c", "abc"),
        ("a<!-->b<!--->c<!-- > -- --!>d", "abcd"),
        ("a<b title='>'>b</b title=\">\">c", "abc"),
        ("a<b title=x'>b", "ab"),
        ("<script src=x />a<svg><style/></svg>b", "ab"),
        ("<script>a</scripted></SCRIPT >b", "b"),
        ("a</>b</ c>d<?php e ?>f", "abdf"),
        ("a &#0000000065; &#" + "1" * 5000 + "; &#x110000;", "a A \ufffd \ufffd"),
        ("a <never closed", "a"),
        ("a</", "a</"),
    ],
)
def test_html_as_a_browser_reads_it(page: str, text: str) -> None:
    assert "".join(_visible(iter([page]))) == text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_bytes(b"two\xff")
    (folder / "c.txt.gz").write_bytes(gzip.compress(b"three" * 1000)[:-9])
    (folder / "d.jsonl").write_text('{"text": "four"}\n{"text": \n{"no": 1}\n' + "[" * 100_000 + '\n{"text": "five"}\n')
    (folder / "e.csv").write_text("id,text\n1,six\n2\n3,seven\n")
    (folder / "f.json").write_text('[{"text": "eight"}, {"text": 1}, {"text": "nine"}, nonsense]')
    (folder / "g.txt").write_text("ten")
    return folder


def test_bad_documents_are_skipped_named_and_counted(folder: Path) -> None:
    assert read(folder, **SKIP) == ["one", "four", "five", "six", "seven", "eight", "nine", "ten"]
    counts, [warning] = tally(folder, **SKIP)
    assert (counts.seen, counts.documents, counts.dropped) == (16, 8, {"unreadable": 8})
    assert counts.n_bad_documents == len(counts.bad_documents) == 8
    assert f"{folder}: 8 documents cannot be read and were skipped: {folder}/b.txt: byte 3: is not UTF-8" in warning
    assert warning.endswith("; …")
    assert any("d.jsonl:4: is not valid JSON: nested too deeply" in bad for bad in counts.bad_documents)
    with pytest.raises(CorpusError, match=r"b\.txt: byte 3: is not UTF-8"):
        read(folder)


def test_of_a_document_that_cannot_be_read_no_piece_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * (3 << 20) + b"\xff")
    (tmp_path / "b.txt").write_bytes(b"y" * (3 << 20))
    assert set("".join(read(tmp_path, **SKIP))) == {"y"}


def test_an_exception_of_a_reader_names_the_file() -> None:
    def broken(path: Path) -> Iterator[Document]:
        yield Document("text", str(path))
        raise AssertionError("unexpected")

    counts = Tally()
    settings = CorpusSettings.model_validate(SKIP)
    assert [d.source for d in read_files([Path("a"), Path("b")], broken, settings, counts)] == ["a", "b"]
    assert counts.bad_documents == [f"{name}: cannot be read: AssertionError: unexpected" for name in "ab"]
    with pytest.raises(CorpusError, match="^a: cannot be read: AssertionError"):
        list(read_files([Path("a")], broken, CorpusSettings(), Tally()))


def test_a_reader_that_takes_too_long_is_stopped() -> None:
    def slow(path: Path) -> Iterator[Document]:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        yield Document("text", str(path))

    settings = CorpusSettings.model_validate({"limits": {"max_seconds": 0.01}})
    with pytest.raises(CorpusError, match=r"takes too long .*raise corpus\.limits\.max_seconds"):
        list(read_files([Path("a")], slow, settings, Tally()))


@pytest.mark.parametrize(
    ("name", "data", "split"),
    [
        ("a.jsonl", b'{"text": "' + b"x" * 70_000 + b'"}', "file"),
        ("a.json", b'["' + b"x" * 70_000 + b'"]', "file"),
        ("a.csv", b'text\n"' + b"x\n" * 35_000 + b'"\n', "file"),
        ("a.csv", b'text,b\n"' + b"x\n" * 20_000 + b'","' + b"x\n" * 20_000 + b'"\n', "file"),
        ("a.tsv", b"text\n" + b"x" * 70_000, "file"),
        ("a.txt", b"x" * 70_000, "lines"),
        ("a.txt", b"x\n" * 35_000, "blank-lines"),
    ],
)
def test_a_record_is_held_within_the_limit(tmp_path: Path, name: str, data: bytes, split: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert len("".join(read(path, text_split=split))) >= 35_000
    with pytest.raises(CorpusError, match=r"is too large .*raise corpus\.limits\.max_document_bytes"):
        read(path, text_split=split, **SMALL)


def test_a_long_text_file_has_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.bz2"
    path.write_bytes(bz2.compress(b"x" * 200_000))
    assert len("".join(read(path, **SMALL))) == 200_000


def test_parquet_rows_that_share_a_long_value_come_a_few_at_a_time(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    values = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 300), pyarrow.array(["x" * 50_000]))
    parquet.write_table(pyarrow.table({"text": values, "n": list(range(300))}), path, compression="zstd")
    allocated = pyarrow.total_allocated_bytes()
    limits = CorpusSettings.model_validate(SMALL).read_limits
    for number, record in iter_parquet(path, limits=limits):
        assert len(record["text"]) == 50_000
        assert record["n"] == number - 1
        assert pyarrow.total_allocated_bytes() - allocated < 1_000_000
    values = pyarrow.array(["x" * 70_000])
    parquet.write_table(pyarrow.table({"text": values, "n": [1]}), path, compression="zstd")
    with pytest.raises(CorpusError, match="a page of the column 'text' is too large"):
        list(iter_parquet(path, limits=limits))
    assert list(iter_parquet(path, limits=limits, select=lambda _: ["n"])) == [(1, {"n": 1})]


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_with_pages_of_many_kinds(tmp_path: Path, nested: bool) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"text": f"{i} " * (i % 50), "tags": [str(i)] * (i % 3), "n": {"x": i / 7}} for i in range(5000)]
    path = tmp_path / "a.parquet"
    options = {"data_page_version": "2.0", "use_dictionary": False, "compression": "none"} if nested else {}
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, data_page_size=5000, row_group_size=1000, **options)
    assert [record for _, record in iter_parquet(path)] == rows
    data = bytearray(path.read_bytes())
    data[4:40] = b"\xff" * 36  # the header of the first page
    path.write_bytes(data)
    with pytest.raises(CorpusError, match="is not a readable Parquet file"):
        list(iter_parquet(path))


def test_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is a device"):
        open_corpus(["/dev/zero"])


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links inside, outside, in a loop and to nothing."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "sub").mkdir(parents=True)
    (outside / "more").mkdir(parents=True)
    (inside / "a.txt").write_text("inside")
    (inside / "sub" / "b.txt").write_text("below")
    (outside / "secret.txt").write_text("secret")
    (outside / "more" / "c.txt").write_text("more")
    (inside / "again.txt").symlink_to("a.txt")
    (inside / "loop").symlink_to(".")
    (inside / "sub" / "up").symlink_to("..")
    (inside / "self").symlink_to("self")
    (inside / "nothing.txt").symlink_to("missing")
    (inside / "file.txt").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to(outside)
    return inside


def test_links_that_leave_a_folder_are_followed_only_where_it_is_asked_for(linked: Path) -> None:
    assert sorted(read(linked)) == ["below", "inside"]
    assert sorted(read(linked, follow_symlinks=True)) == ["below", "inside", "more", "secret"]
    for pattern in ("*", "**/*", "**/*.txt", "*.txt", "loop/*", "**"):
        texts = read(linked / pattern)
        assert "secret" not in texts, pattern
        assert "more" not in texts, pattern
        assert len(set(texts)) == len(texts), pattern
        assert "secret" in read(linked / pattern, follow_symlinks=True), pattern
    assert read(linked / "file.txt") == ["secret"]  # named
    assert sorted(read(linked / "folder")) == ["more", "secret"]


def test_links_that_are_left_out_are_counted_in_one_line(linked: Path) -> None:
    events: list[progress.Event] = []
    with progress.listen(events.append):
        read(linked)
    text, broken = (event.text for event in events)
    assert broken.startswith(f"{linked}: 2 symbolic links lead nowhere: ")
    assert text.startswith(f"{linked}: 2 symbolic links lead out of the folder and are not followed: {linked}/file.txt")
    assert text.endswith("Set corpus.follow_symlinks=true to read what they lead to.")


def test_two_folders_that_link_to_each_other_are_listed_once(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(name)
        for i in range(20):
            (tmp_path / name / f"link{i}").symlink_to(tmp_path / other)
    assert len(list_folder(tmp_path).files) == 2
    assert len(list_glob(f"{tmp_path}/**/*.txt").files) == 2
    listed = list_folder(tmp_path / "a", follow_symlinks=True)
    assert [path.name for path in listed.files] == ["x.txt", "x.txt"]
    assert len(list_folder(tmp_path / "a").outside) == 20


@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
def test_standard_input_leaves_nothing_behind_after_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, time; from firstlight.corpus import open_corpus;"
        "c = open_corpus(['-']); next(iter(c)); print('ready', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"private text\n" * 1000)
    process.stdin.close()
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_changes_only_where_documents_may(folder: Path) -> None:
    def fingerprint(**settings: Any) -> str:
        [source] = open_corpus([str(folder)], CorpusSettings.model_validate(settings)).sources
        return source.fingerprint()

    assert fingerprint() == fingerprint(**SMALL) == fingerprint(follow_symlinks=True)
    assert len({fingerprint(), fingerprint(**SKIP), fingerprint(**SKIP, **SMALL)}) == 3


def test_the_tally_is_json(folder: Path) -> None:
    counts, _ = tally(folder, **SKIP)
    assert len(json.loads(json.dumps(counts.to_json()))["bad_documents"]) == 8


def test_a_parquet_list_of_a_billion_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(limits_module, "_UNCHECKED_BYTES", 1 << 16)
    path = tmp_path / "a.parquet"
    rows = [{"text": "x", "n": [7] * 100_000}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="zstd")
    with pytest.raises(CorpusError, match="expands too far"):
        list(iter_parquet(path))
    assert list(iter_parquet(path, select=lambda _: ["text"])) == [(1, {"text": "x"})]
