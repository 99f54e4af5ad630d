"""Named corpora: from files placed in the cache, and from a server on this machine."""

import contextlib
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firstlight.corpus import CorpusSettings, load_catalogue, open_corpus
from firstlight.corpus import named as named_module
from firstlight.corpus import raw_source as raw_module
from firstlight.corpus import sources as module
from firstlight.errors import CorpusError


def zipped(**members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in members.items():
            file.writestr(name, text)
    return out.getvalue()


def offer(monkeypatch: pytest.MonkeyPatch, web: Any, data: bytes, **entry: Any) -> None:
    """Point the catalogue at the server: one corpus ``mine`` of one file."""
    name = entry.pop("name", "mine.txt")
    web.files[f"/{name}"] = data
    item = {"url": f"{web.url}/{name}", "name": name} | {k: entry.pop(k) for k in ("member", "sha256") if k in entry}
    monkeypatch.setattr(module, "load_catalogue", lambda: {"mine": {"files": [item], **entry}})


def read(name: str = "mine", **settings: Any) -> list[str]:
    return [str(d.content) for d in open_corpus([name], CorpusSettings.model_validate(settings))]


def test_the_catalogue_is_whole():
    for name, entry in load_catalogue().items():
        assert {"home", "licence", "files"} <= set(entry) <= {"home", "licence", "files", "split"}, name
        for item in entry["files"]:
            assert set(item) <= {"url", "name", "sha256", "member"}, name
            assert re.fullmatch(r"https://[^/]+/.+", item["url"]), name
            assert re.fullmatch(r"[0-9a-f]{64}", item.get("sha256", "0" * 64)), name
    targets = [item["name"] for entry in load_catalogue().values() for item in entry["files"]]
    assert len(targets) == len(set(targets))


@pytest.mark.parametrize(
    ("name", "file", "data", "found"),
    [
        ("text8", "text8.zip", zipped(text8=" anarchism originated"), [" anarchism originated"]),
        ("enwik8", "enwik8.zip", zipped(enwik8="<mediawiki>\n"), ["<mediawiki>\n"]),
        (
            "tinystories",
            "tinystories-train.txt",
            b"One day.\n\nThe end.\n<|endoftext|>\n\nTwo.\n<|endoftext|>\n",
            ["One day.\n\nThe end.", "Two."],
        ),
    ],
)
def test_files_placed_in_the_cache_need_no_connection(cache: Path, name: str, file: str, data: bytes, found: list[str]):
    cache.mkdir()
    (cache / file).write_bytes(data)
    assert read(name) == found
    assert read(name) == found


def test_parquet_placed_in_the_cache(cache: Path):
    import pyarrow
    import pyarrow.parquet

    cache.mkdir()
    rows = pyarrow.table({"text": ["", " = Title = \n", "", "A paragraph. \n"]})
    pyarrow.parquet.write_table(rows, cache / "wikitext-2-train.parquet")
    assert read("wikitext-2") == [" = Title = \n", "A paragraph. \n"]


def test_a_wrong_file_in_the_cache_is_refused(cache: Path):
    cache.mkdir()
    (cache / "tinyshakespeare.txt").write_text("To be, or not")
    with pytest.raises(CorpusError, match="tinyshakespeare.txt: does not have the expected SHA-256"):
        open_corpus(["tinyshakespeare"])


@pytest.mark.data
def test_tinyshakespeare_by_hand(cache: Path, shared_data: Path):
    cache.mkdir()
    (cache / "tinyshakespeare.txt").write_bytes((shared_data / "tinyshakespeare" / "input.txt").read_bytes())
    text = "".join(read("tinyshakespeare"))
    assert len(text) == 1_115_394
    assert text.startswith("First Citizen:\n")


def test_a_corpus_is_fetched_on_first_use(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path):
    offer(monkeypatch, web, b"hello\r\n", sha256=hashlib.sha256(b"hello\r\n").hexdigest())
    assert read() == read() == ["hello\n"]
    assert web.requests == [("/mine.txt", None)]
    assert (cache / "mine.txt").read_bytes() == b"hello\r\n"


def test_a_corpus_is_hashed_once_a_run(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path):
    offer(monkeypatch, web, b"hello")
    first = open_corpus(["mine"]).sources[0].fingerprint()

    def never(_: Path) -> str:
        raise AssertionError("hashed again")

    monkeypatch.setattr(raw_module, "sha256", never)
    assert open_corpus(["mine"]).sources[0].fingerprint() == first


def test_a_missing_corpus_says_where_it_goes(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path):
    offer(monkeypatch, web, b"hello")
    web.files.clear()
    with pytest.raises(CorpusError, match="HTTP 404") as caught:
        open_corpus(["mine"])
    assert str(cache / "mine.txt") in str(caught.value.fix)


def test_documents_between_separators(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path):
    offer(monkeypatch, web, b"one\n<|>\n\ntwo <|>three\n<|>\n<|>\n", split="<|>")
    [source] = open_corpus(["mine"]).sources
    found = [(str(d.content), d.source.rpartition(": ")[2]) for d in source.documents()]
    assert found == [("one", "document 1"), ("two ", "document 2"), ("three", "document 3")]


def test_a_member_is_unpacked_once(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path):
    offer(monkeypatch, web, zipped(a="one", b="no"), name="mine.zip", member="a")
    assert read() == ["one"]
    unpacked = cache / "mine-a.txt"
    before = unpacked.stat().st_mtime_ns
    assert read() == ["one"]
    assert unpacked.stat().st_mtime_ns == before
    assert {p.name for p in cache.iterdir() if p.suffix != ".lock"} == {"mine.zip", "mine.zip.sha256", "mine-a.txt"}


def test_a_newer_archive_is_unpacked_again(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path):
    offer(monkeypatch, web, zipped(a="one"), name="mine.zip", member="a")
    assert read() == ["one"]
    data = zipped(a="two")
    (cache / "mine.zip").write_bytes(data)
    (cache / "mine.zip.sha256").write_text(hashlib.sha256(data).hexdigest())
    later = (cache / "mine-a.txt").stat().st_mtime_ns + 10**9
    os.utime(cache / "mine.zip", ns=(later, later))
    assert read() == ["two"]


def test_what_another_process_unpacked_meanwhile_is_taken(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path):
    offer(monkeypatch, web, zipped(a="mine"), name="mine.zip", member="a")

    @contextlib.contextmanager
    def late(_: Path) -> Iterator[None]:
        (cache / "mine-a.txt").write_text("theirs")
        yield

    monkeypatch.setattr(named_module, "exclusive_lock", late)
    assert read() == ["theirs"]


def damaged() -> bytes:
    data = bytearray(zipped(a="text " * 1000))
    data[40] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (zipped(b="x"), "has no such member"),
        (b"no archive", "not a zip file"),
        (damaged(), "is not an archive"),
    ],
)
def test_a_broken_archive_is_named(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path, data: bytes, problem: str):
    offer(monkeypatch, web, data, name="mine.zip", member="a")
    with pytest.raises(CorpusError, match="is not an archive with a file 'a'") as caught:
        open_corpus(["mine"])
    assert problem in str(caught.value)
    assert caught.value.where == str(cache / "mine.zip")
    assert not list(cache.glob("*.txt*"))


def test_bad_bytes_of_a_member_are_named(monkeypatch: pytest.MonkeyPatch, web: Any, cache: Path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a", b"ab\xff")
    offer(monkeypatch, web, out.getvalue(), name="mine.zip", member="a")
    with pytest.raises(CorpusError, match="mine-a.txt: byte 2: is not UTF-8"):
        read()


def test_the_catalogue_is_package_data():
    assert (Path(module.__file__).parent / "catalogue.toml").is_file()
