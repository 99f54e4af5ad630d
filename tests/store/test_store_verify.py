"""An open store: what is wrong with it is found and named, what is in it is counted."""

import json
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_text import EOT, Bytes, Texts, make

from firstlight import progress
from firstlight.errors import CompatibilityError, StoreError
from firstlight.files import write_manifest
from firstlight.progress import Event
from firstlight.store import TokenStore, open_store, store_stats, unigram_counts, verify_store, write_index
from firstlight.store.document_names import NameTable, NameTableWriter

FILES = ["train.bin", "train.idx", "valid.bin", "valid.idx", "documents.safetensors", "manifest.json"]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return make(tmp_path / "s", [f"document {i} " * (i % 4 + 1) for i in range(60)], valid_ratio=0.3)


def test_a_whole_store(store: TokenStore) -> None:
    assert verify_store(store.directory) == []
    assert verify_store(store.directory, tokenizer_hash=Bytes().hash) == []
    assert TokenStore.open(store.directory, tokenizer_hash=Bytes().hash).fingerprint == store.fingerprint


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_one_flipped_bit_is_found_and_named(store: TokenStore, name: str, place: float) -> None:
    path = store.directory / name
    data = bytearray(path.read_bytes())
    # Not white space: JSON would say the same.
    at = next(i for i in range(int(place * (len(data) - 1)), -1, -1) if data[i] not in b" \n")
    data[at] ^= 4
    path.write_bytes(data)
    problems = verify_store(store.directory)
    assert len(problems) == 1
    assert name in problems[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", [1, 20, 10**6])
def test_a_cut_file_is_found_and_named(store: TokenStore, name: str, cut: int) -> None:
    path = store.directory / name
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    if name == "manifest.json" and cut == 1:
        return  # the last line end
    problems = verify_store(store.directory)
    assert len(problems) == 1
    assert name in problems[0]
    with pytest.raises(StoreError, match=name):
        TokenStore.open(store.directory)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(store: TokenStore, name: str) -> None:
    (store.directory / name).unlink()
    assert [name in problem and "missing" in problem for problem in verify_store(store.directory)] == [True]
    with pytest.raises(StoreError, match=r"manifest\.json" if name == "manifest.json" else name):
        TokenStore.open(store.directory)


def test_all_damage_is_told(store: TokenStore) -> None:
    (store.directory / "train.bin").write_bytes(b"")
    (store.directory / "valid.idx").unlink()
    assert len(verify_store(store.directory)) == 2


def test_a_foreign_tokenizer_is_named(store: TokenStore) -> None:
    other = "deadbeef" * 8
    problems = verify_store(store.directory, tokenizer_hash=other)
    assert len(problems) == 1
    assert Bytes().hash[:12] in problems[0]
    assert "deadbeefdead" in problems[0]
    with pytest.raises(CompatibilityError, match="made with another tokenizer .found hash deadbeefdead") as caught:
        TokenStore.open(store.directory, tokenizer_hash=other)
    assert caught.value.fix is not None


def _rewritten(store: TokenStore, change: Callable[[Path, dict[str, Any]], None]) -> None:
    """Change a store and seal it again, as a program that goes wrong would."""
    manifest = json.loads((store.directory / "manifest.json").read_text())
    change(store.directory, manifest)
    (store.directory / "manifest.json").unlink()
    write_manifest(store.directory, {k: v for k, v in manifest.items() if k not in ("files", "manifest_sha256")})


def test_an_id_beyond_the_vocabulary_is_found_behind_right_checksums(store: TokenStore) -> None:
    def change(folder: Path, manifest: dict[str, Any]) -> None:
        ids = np.fromfile(folder / "valid.bin", "<u2")
        ids[5] = 999
        ids.tofile(folder / "valid.bin")

    _rewritten(store, change)
    problems = verify_store(store.directory)
    assert [("valid.bin" in p, "vocabulary of 257" in p) for p in problems] == [(True, True)]


def test_an_index_of_other_ids_is_found_behind_right_checksums(store: TokenStore) -> None:
    _rewritten(store, lambda folder, _: write_index(folder / "train.idx", np.array([3, 4]), np.dtype("<u2")))
    problems = verify_store(store.directory)
    assert [("train.bin" in p, "truncated or too long" in p) for p in problems] == [(True, True)]


def test_counts_that_differ_from_the_files_are_found(store: TokenStore) -> None:
    def change(folder: Path, manifest: dict[str, Any]) -> None:
        manifest["train_tokens"] += 1

    _rewritten(store, change)
    assert [("train_tokens" in p) for p in verify_store(store.directory)] == [True]


def test_a_manifest_that_lacks_something(store: TokenStore) -> None:
    _rewritten(store, lambda folder, manifest: manifest.pop("train_bytes"))
    assert [("manifest.json" in p, "train_bytes" in p) for p in verify_store(store.directory)] == [(True, True)]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 99, "vocab_size": 1}', '"text"'])
def test_a_manifest_of_something_else(store: TokenStore, content: str) -> None:
    (store.directory / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        TokenStore.open(store.directory)
    assert len(verify_store(store.directory)) == 1


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(b"half")
    with pytest.raises(StoreError, match="not a complete token store .found no manifest.json.*firstlight data prepare"):
        TokenStore.open(tmp_path)


def test_counting(store: TokenStore) -> None:
    counts = unigram_counts(store.train)
    assert counts.tolist() == np.bincount(store.train.tokens).tolist()
    assert counts[EOT] == store.train.n_documents
    table = store_stats(store, top=3)
    assert [i for i, _ in table["top"]] == np.argsort(counts)[::-1][:3].tolist()
    assert table["train"]["bytes"] == store.train.n_bytes == store.train.n_tokens - store.train.n_documents
    assert table["ids_used"] == len(set(store.train.tokens.tolist()))
    assert table["document_tokens"]["p100"] == np.diff(store.train.bounds).max()


def test_counting_in_chunks(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import firstlight.store.store as module

    wanted = unigram_counts(store.train).tolist()
    monkeypatch.setattr(module, "_CHUNK", 7)
    assert unigram_counts(store.train).tolist() == wanted


def test_reading_ahead_is_asked_for_where_memory_holds_it(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import firstlight.store.store as module

    asked: list[int] = []

    class Map(mmap.mmap):
        def madvise(self, option: int, *rest: int) -> None:
            asked.append(option)

    with (store.directory / "train.bin").open("rb") as file:
        mapped = Map(file.fileno(), 0, access=mmap.ACCESS_READ)
    store.train._tokens = np.frombuffer(mapped, np.uint16)
    # A buffer's base is a view of the map; a memory map's is the map itself.
    store.train._tokens = np.ndarray(len(store.train.tokens), np.uint16, mapped)
    store.train.prefetch()
    assert asked == ([mmap.MADV_WILLNEED] if hasattr(mmap, "MADV_WILLNEED") else [])
    asked.clear()
    monkeypatch.setattr(module.os, "sysconf", lambda name: 1)
    store.train.prefetch()
    assert asked == []


def test_advice_to_any_store(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(store.train.tokens.base, mmap.mmap)
    store.train.prefetch()
    monkeypatch.delattr(mmap, "MADV_WILLNEED", raising=False)
    store.train.prefetch()
    store.train._tokens = np.zeros(0, np.uint16)
    store.train.prefetch()


# Names

NAMES = [
    *("a.jsonl:1", "a.jsonl:2", "a.jsonl:007", "b/file12.txt", "", "12", "0", "00", "x:12345678901234567890"),
    *("文件٣", "é\ndü:3", "bad\udcff name:4"),
]


def test_names_come_back_as_they_were(tmp_path: Path) -> None:
    table = NameTableWriter()
    for i, name in enumerate(NAMES * 3):
        table.add("valid" if i % 5 == 0 else "train", name)
    table.save(tmp_path / "names")
    for side, wanted in (
        ("train", [n for i, n in enumerate(NAMES * 3) if i % 5]),
        ("valid", [n for i, n in enumerate(NAMES * 3) if not i % 5]),
    ):
        names = NameTable(tmp_path / "names", side)
        assert [names[i] for i in range(len(names))] == wanted


def test_a_table_of_no_names(tmp_path: Path) -> None:
    NameTableWriter().save(tmp_path / "names")
    assert len(NameTable(tmp_path / "names", "train")) == 0


def test_a_store_without_names_still_names_its_documents(store: TokenStore) -> None:
    (store.directory / "documents.safetensors").unlink()
    again = type(store)(store.directory, store.manifest)
    assert again.valid.document_name(3) == "valid document 3"


def test_names_of_a_stretch(tmp_path: Path) -> None:
    split = make(tmp_path / "s", Texts(["aaa", "b", "cc", "d" * 40], "t"), valid_ratio=0.5).train
    assert split.bounds[:4].tolist() == [0, 4, 6, 9]
    assert split.document_names(0, 1) == split.document_names(3, 4) == ["t:1"]
    assert split.document_names(3, 5) == ["t:1", "t:2"]
    assert split.document_names(4, 6) == ["t:2"]
    assert split.document_names(0, 10) == ["t:1", "t:2", "t:3", "t:4"]


# Before a store is used


@pytest.fixture
def events() -> Iterator[list[Event]]:
    found: list[Event] = []
    with progress.listen(found.append):
        yield found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_flipped_bit_is_found_before_the_store_is_used(cache: Path, store: TokenStore, name: str) -> None:
    assert open_store(store.directory).fingerprint == store.fingerprint
    flip(store.directory / name, -1)
    with pytest.raises(StoreError, match=name.replace(".", r"\.")) as caught:
        open_store(store.directory)
    assert name.endswith(".idx") or "make it again" in str(caught.value.fix)


def test_a_store_is_verified_once_as_long_as_it_does_not_change(
    cache: Path, store: TokenStore, events: list[Event]
) -> None:
    (cache / "verified.json").unlink()
    for _ in range(3):
        open_store(store.directory)
    assert sum(e.finished for e in events if e.task == "verify") == 1
    os.utime(store.directory / "train.bin")
    open_store(store.directory)
    assert sum(e.finished for e in events if e.task == "verify") == 2
    # A change that keeps size and modification time.
    stat = (store.directory / "train.bin").stat()
    flip(store.directory / "train.bin")
    os.utime(store.directory / "train.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(StoreError, match="damaged"):
        open_store(store.directory)
    with pytest.raises(StoreError, match="damaged"):  # not remembered as intact
        open_store(store.directory)


def test_verification_can_be_switched_off(cache: Path, store: TokenStore) -> None:
    flip(store.directory / "train.bin")
    assert open_store(store.directory, verify=False).train.n_tokens == store.train.n_tokens


def test_a_store_that_was_just_made_is_known_to_be_intact(cache: Path, store: TokenStore, events: list[Event]) -> None:
    open_store(store.directory)
    assert not [e for e in events if e.task == "verify"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 3}'])
def test_a_damaged_record_only_costs_time(cache: Path, store: TokenStore, content: str) -> None:
    (cache / "verified.json").write_text(content)
    open_store(store.directory)
    assert str(store.directory.resolve()) in json.loads((cache / "verified.json").read_text())


def test_a_cache_that_cannot_be_written_is_no_error(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "file"))
    assert open_store(store.directory).train.n_tokens == store.train.n_tokens
    assert (tmp_path / "file").read_text() == ""
