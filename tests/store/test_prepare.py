"""From documents to a store: what is written, which side it goes to, and that it is whole or not there."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_text import EOT, Bytes, Texts, documents_of, make

from firstlight import progress
from firstlight.errors import CompatibilityError, CorpusError, StorageError, StoreError
from firstlight.store import DataSettings, TokenStore, prepare, read_index, verify_store
from firstlight.store.prepare import _MAX_HELD_CHARACTERS
from firstlight.types import Document

# The room's name ``prepare`` is the function.
MODULE = sys.modules["firstlight.store.prepare"]


def _numbered(n: int) -> list[str]:
    return [f"document {i} " * (1 + i % 3) for i in range(n)]


def _check_tables(store: TokenStore, sources: list[Texts]) -> None:
    """Manifest, index, names and ids of a store say the same."""
    manifest = store.manifest
    for side in ("train", "valid"):
        split = getattr(store, side)
        tables, documents = [table[side] for table in manifest["sources"]], documents_of(store, side)
        assert split.n_tokens == manifest[f"{side}_tokens"] == sum(t["tokens"] for t in tables)
        assert split.n_documents == manifest[f"{side}_documents"] == sum(t["documents"] for t in tables)
        assert split.n_bytes == manifest[f"{side}_bytes"] == sum(t["bytes"] for t in tables)
        assert split.n_bytes == int((split.tokens != EOT).sum())
        first_token = first_document = 0
        for source, table in zip(sources, tables, strict=True):
            assert (table["first_token"], table["first_document"]) == (first_token, first_document)
            assert int(split.bounds[first_document]) == first_token
            for document in range(first_document, first_document + table["documents"]):
                name, _, number = split.document_name(document).partition(":")
                assert name == source.name
                text = source._documents[int(number) - 1]
                whole = (text if isinstance(text, str) else "".join(text)).encode() + b"|"
                found = documents[document]
                assert found in whole
            first_token += table["tokens"]
            first_document += table["documents"]
    assert verify_store(store.directory) == []


@pytest.mark.parametrize("n", [1, 2, 3, 18, 19, 20, 21, 60, 200])
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.5])
def test_every_document_is_written_once(tmp_path: Path, n: int, ratio: float) -> None:
    source = Texts(_numbered(n))
    store = make(tmp_path / "s", source, valid_ratio=ratio)
    _check_tables(store, [source])
    train, valid = documents_of(store, "train"), documents_of(store, "valid")
    wanted = [text.encode() + b"|" for text in _numbered(n)]
    if n < 60:  # by the text's end; of 20 or 21, none was drawn
        assert b"".join(train + valid) == b"".join(wanted)
    else:
        assert sorted(train + valid) == sorted(wanted)
        assert train[:19] == wanted[:19]
        assert len(valid) <= n * ratio * 1.5


@pytest.mark.parametrize("n", [1, 2, 19])
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.37, 0.9])
def test_few_documents_are_split_in_the_text(tmp_path: Path, n: int, ratio: float) -> None:
    text = "".join(chr(97 + i % 26) for i in range(1000))
    documents = [text[i * 1000 // n : (i + 1) * 1000 // n] for i in range(n)]
    store = make(tmp_path / "s", documents, valid_ratio=ratio)
    kept = int(1000 * (1 - ratio))
    assert store.train.n_tokens == kept
    assert store.valid.n_tokens == 1000 + n - kept
    joined = b"".join(documents_of(store, "train") + documents_of(store, "valid"))
    assert joined == "|".join(documents).encode() + b"|"


def test_the_last_tenth_of_one_text_is_the_valid_split(tmp_path: Path) -> None:
    text = "0123456789" * 100
    store = make(tmp_path / "s", [text])
    assert documents_of(store, "train") == [text[:900].encode()]
    assert documents_of(store, "valid") == [text[900:].encode() + b"|"]
    assert store.train.document_name(0) == store.valid.document_name(0) == "texts0:1"


def test_a_cut_between_two_documents_cuts_none(tmp_path: Path) -> None:
    # 20 tokens of text, 22 with end-of-text; half of 20 is the end of the first document with its end-of-text.
    store = make(tmp_path / "s", ["123456789", "abcdefghijk"], valid_ratio=0.5)
    assert documents_of(store, "train") == [b"123456789|"]
    assert documents_of(store, "valid") == [b"abcdefghijk|"]
    assert (store.train.document_name(0), store.valid.document_name(0)) == ("texts0:1", "texts0:2")


def test_many_documents_none_of_which_fell_to_valid(tmp_path: Path) -> None:
    source = Texts(["same text"] * 40)
    store = make(tmp_path / "s", source, valid_ratio=0.2)
    tokens = 40 * 10
    assert store.train.n_tokens == int((tokens - 40) * 0.8)
    assert store.train.n_tokens + store.valid.n_tokens == tokens
    assert store.train.n_documents + store.valid.n_documents in (40, 41)
    assert store.valid.document_name(store.valid.n_documents - 1) == "texts:40"
    assert store.train.document_name(0) == "texts:1"


@settings(deadline=None, max_examples=40)
@given(data=st.data(), ratio=st.sampled_from([0.1, 0.3, 0.6]), seed=st.integers(0, 2**63 - 1))
def test_equal_documents_are_on_one_side(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, ratio: float, seed: int
) -> None:
    texts = data.draw(st.lists(st.sampled_from([f"text {i}" for i in range(30)]), min_size=20, max_size=80))
    store = make(tmp_path_factory.mktemp("store") / "s", texts, valid_ratio=ratio, seed=seed)
    train, valid = documents_of(store, "train"), documents_of(store, "valid")
    # Where no document fell to valid, the end of the text is valid, and may well hold a document twice.
    assume(b"".join(train + valid).decode() != "|".join([*texts, ""]))
    assert not set(train) & set(valid)
    assert sorted(train + valid) == sorted(text.encode() + b"|" for text in texts)


def test_a_validation_text_is_the_whole_split(tmp_path: Path) -> None:
    train, valid = [Texts(_numbered(n), f"t{n}") for n in (40, 2)], [Texts(["one", "two"], "v"), Texts(["three"], "w")]
    store = make(tmp_path / "s", *train, valid=valid)
    assert documents_of(store, "train") == [text.encode() + b"|" for n in (40, 2) for text in _numbered(n)]
    assert documents_of(store, "valid") == [b"one|", b"two|", b"three|"]
    assert (store.source_names(), store.source_names("valid_sources")) == (["t40", "t2"], ["v", "w"])
    assert [table["valid"]["documents"] for table in store.manifest["valid_sources"]] == [2, 1]
    assert [table["valid"]["documents"] for table in store.manifest["sources"]] == [0, 0]
    assert verify_store(store.directory) == []
    with pytest.raises(CompatibilityError, match="another validation text"):
        make(tmp_path / "s", *train)
    with pytest.raises(StoreError, match=r"u: holds too little text for training"):
        make(tmp_path / "t", Texts([["", ""]], "u"), valid=valid)


def test_the_split_is_the_same_each_time_and_another_for_another_seed(tmp_path: Path) -> None:
    documents = [f"text number {i}" for i in range(300)]
    stores = [make(tmp_path / name, documents, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    files = [
        {p.name: p.read_bytes() for p in store.directory.iterdir() if p.name != "manifest.json"} for store in stores
    ]
    assert files[0] == files[1]
    assert files[0]["valid.bin"] != files[2]["valid.bin"]
    assert 12 <= stores[0].valid.n_documents <= 50
    assert stores[0].manifest == stores[1].manifest


def test_the_side_of_a_document_does_not_depend_on_the_others(tmp_path: Path) -> None:
    one = make(tmp_path / "a", [f"text {i}" for i in range(200)])
    two = make(tmp_path / "b", [f"text {i}" for i in range(200)] + ["more"] * 50)
    assert documents_of(one, "valid") == [d for d in documents_of(two, "valid") if d != b"more|"]


def test_pieces_are_one_document_whatever_their_size(tmp_path: Path) -> None:
    documents: list[str] = [chr(65 + i % 26) * (70_000 + i) for i in range(30)]
    in_pieces: list[str | list[str]] = [
        [d[j : j + size] for j in range(0, len(d), size)]
        for d, size in zip(documents, [70_001 + 1000 * i for i in range(30)], strict=True)
    ]
    uneven: list[str | list[str]] = [[d[:10], d[10:11], d[11:60_000], d[60_000:]] for d in documents]
    whole = make(tmp_path / "whole", documents, valid_ratio=0.4)
    assert 0 < whole.valid.n_documents < 12
    for name, given_ in (("pieces", in_pieces), ("uneven", uneven)):
        store = make(tmp_path / name, given_, valid_ratio=0.4)
        for side in ("train", "valid"):
            assert documents_of(store, side) == documents_of(whole, side)
        _check_tables(store, [Texts(given_, "texts0")])


def test_empty_pieces_and_empty_documents(tmp_path: Path) -> None:
    source = Texts([["a", "", "b"], "", ["", ""], ["", "c" * 30]])
    store = make(tmp_path / "s", source, valid_ratio=0.5)
    assert b"".join(documents_of(store, "train") + documents_of(store, "valid")) == b"ab|||" + b"c" * 30 + b"|"
    _check_tables(store, [source])


def test_a_batch_that_ends_inside_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents: list[str | list[str]] = [[c * 9 for c in "abcdefg"], "x" * 40, [c * 30 for c in "hij"], "y"] * 10
    wanted = make(tmp_path / "one", documents)
    monkeypatch.setattr(MODULE, "_BATCH_CHARACTERS", 25)
    monkeypatch.setattr(MODULE, "HASHED_CHARACTERS", 1)
    store = make(tmp_path / "many", documents)
    assert documents_of(store, "train") + documents_of(store, "valid") != []
    together = sorted(documents_of(store, "train") + documents_of(store, "valid"))
    assert together == sorted(documents_of(wanted, "train") + documents_of(wanted, "valid"))


def test_a_text_is_cut_only_where_the_encoder_allows(tmp_path: Path) -> None:
    cuts: list[str] = []

    class Recorded(Bytes):
        def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            cuts.extend(texts)
            return super().encode_batch(texts)

    text = "word " * 40_000
    pieces = [text[i : i + 70_000] for i in range(0, len(text), 70_000)]
    encoder = Recorded(cut=lambda t: t.rfind(" "))
    store = make(tmp_path / "s", [pieces], encoder=encoder, valid_ratio=0.5)
    assert "".join(cuts) == text
    assert len(cuts) >= 2
    assert all(part.startswith(" ") for part in cuts[1:])
    assert store.train.n_documents == store.valid.n_documents == 1


def test_a_text_without_a_place_to_cut_is_cut_with_a_warning(tmp_path: Path) -> None:
    piece = "x" * (1 << 18)
    longest = 0

    class Measured(Bytes):
        def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            nonlocal longest
            longest = max(longest, *(len(text) for text in texts))
            return super().encode_batch(texts)

    events: list[progress.Event] = []
    with progress.listen(events.append):
        store = make(tmp_path / "s", [[piece] * 24], encoder=Measured(cut=lambda text: 0))
    assert store.train.n_tokens + store.valid.n_tokens == 24 * len(piece) + 1
    assert longest <= _MAX_HELD_CHARACTERS + len(piece)
    warnings = [event.text for event in events if event.level == "warning"]
    assert len(warnings) == 1
    assert "texts0:1" in warnings[0]


def test_several_sources_keep_their_places(tmp_path: Path) -> None:
    sources = [Texts(_numbered(50), "a"), Texts(["few " * 20], "b"), Texts(_numbered(25), "c")]
    store = make(tmp_path / "s", *sources, valid_ratio=0.2)
    _check_tables(store, sources)
    assert [table["name"] for table in store.manifest["sources"]] == ["a", "b", "c"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(
            st.text("ab ", min_size=1, max_size=12) | st.lists(st.text("cd ", max_size=5), min_size=2, max_size=4),
            min_size=1,
            max_size=45,
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([0.1, 0.5]),
)
def test_whatever_the_documents_the_tables_agree(
    tmp_path_factory: pytest.TempPathFactory, sources: list[list[str | list[str]]], ratio: float
) -> None:
    given_ = [Texts([*documents, "the end " * 4], f"s{i}") for i, documents in enumerate(sources)]
    store = make(tmp_path_factory.mktemp("store") / "s", *given_, valid_ratio=ratio)
    manifest = store.manifest
    tokens = sum(s.n_bytes + len(s._documents) for s in given_)
    assert manifest["train_tokens"] + manifest["valid_tokens"] == tokens
    assert manifest["train_bytes"] + manifest["valid_bytes"] == sum(s.n_bytes for s in given_)
    for i, source in enumerate(given_):
        table = manifest["sources"][i]
        assert table["train"]["tokens"] >= 2
        assert table["valid"]["tokens"] >= 2
        assert table["train"]["tokens"] + table["valid"]["tokens"] == source.n_bytes + len(source._documents)
        for side in ("train", "valid"):
            split, first = getattr(store, side), table[side]["first_document"]
            for document in range(first, first + table[side]["documents"]):
                assert split.document_name(document).startswith(f"s{i}:")
    assert verify_store(store.directory) == []


def test_a_valid_split_of_an_empty_document_alone_gets_the_end_of_the_text_too(tmp_path: Path) -> None:
    source = Texts(["a"] * 19 + [["", ""]] + ["the end " * 4])  # of these the empty one alone is drawn
    store = make(tmp_path / "s", source, valid_ratio=0.5)
    train, valid = documents_of(store, "train"), documents_of(store, "valid")
    assert valid[0] == b"|" and len(valid[1]) > 1
    assert b"".join(train) + valid[1] == b"a|" * 19 + b"the end " * 4 + b"|"
    _check_tables(store, [source])


# Refusals


@pytest.mark.parametrize("text", ["", "a", "ab"])
def test_too_little_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(StoreError, match="texts0: holds too little text for a training and a validation split"):
        make(tmp_path / "s", [text])
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_lies(tmp_path: Path) -> None:
    class Lying(Bytes):
        def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            ids, counts = super().encode_batch(texts)
            return ids + 300, counts

    with pytest.raises(StoreError, match="outside its vocabulary .found 422; expected 0 to 256"):
        make(tmp_path / "s", ["xyz" * 30], encoder=Lying())


def test_one_weight_a_source(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"data.weights: needs one weight per source .found 1; expected 2"):
        make(tmp_path / "s", ["a" * 50], ["b" * 50], weights=[1.0])


def test_what_is_no_text(tmp_path: Path) -> None:
    class PixelCodec(Texts):
        def documents(self) -> Iterator[Document]:
            yield Document(np.zeros(4), "image.png")

    with pytest.raises(StoreError, match="image.png: a document is not text"):
        make(tmp_path / "s", PixelCodec(["x"]))


def test_an_error_while_reading_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    class Broken(Texts):
        def documents(self) -> Iterator[Document]:
            yield from super().documents()
            raise CorpusError("is not UTF-8", where="x.txt: byte 7")

    before = threading.active_count()
    with pytest.raises(CorpusError, match="byte 7"):
        make(tmp_path / "s", Broken(["text"] * 50))
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_the_reader_ends_when_the_encoder_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_BATCH_CHARACTERS", 10)

    class Failing(Bytes):
        def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            raise RuntimeError("no")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no"):
        make(tmp_path / "s", ["text of some length"] * 1000, encoder=Failing())
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


# Made before


def _heard(call: object, *args: object, **kwargs: object) -> list[str]:
    heard: list[str] = []
    with progress.listen(lambda event: heard.append(event.text)):
        call(*args, **kwargs)  # type: ignore[operator]
    return heard


def test_a_store_made_from_the_same_is_used_again_and_says_so(tmp_path: Path) -> None:
    source = Texts(_numbered(30))
    make(tmp_path / "s", source)
    stamp = (tmp_path / "s" / "train.bin").stat().st_mtime_ns
    heard = _heard(make, tmp_path / "s", source)
    assert any("reused: " in text for text in heard)
    assert source.read == 1
    assert (tmp_path / "s" / "train.bin").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"seed": 2}, "found seed 1; expected seed 2"),
        ({"valid_ratio": 0.2}, "found valid_ratio 0.1; expected valid_ratio 0.2"),
        ({"encoder": Bytes(name="other")}, "found another tokenizer"),
        ({"marks": "2"}, "found another source"),
        ({"seed": 2, "marks": "2"}, "found another source, seed 1; expected seed 2"),
    ],
)
def test_a_store_made_from_something_else_is_refused(tmp_path: Path, change: dict[str, object], found: str) -> None:
    make(tmp_path / "s", Texts(_numbered(30)))
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    marks = str(change.pop("marks", "1"))
    with pytest.raises(CompatibilityError, match=found):
        make(tmp_path / "s", Texts(_numbered(30), marks=marks), **change)  # type: ignore[arg-type]
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before


def test_a_store_is_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path / "s", Texts(_numbered(30)))
    store = prepare(tmp_path / "s", [Texts(["new " * 50])], Bytes(), DataSettings(), seed=1, overwrite=True)
    assert store.train.n_documents == 1
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_weights_and_masking_do_not_make_another_store(tmp_path: Path) -> None:
    make(tmp_path / "s", ["a" * 50], ["b" * 50])
    before = (tmp_path / "s" / "manifest.json").stat().st_mtime_ns
    make(tmp_path / "s", ["a" * 50], ["b" * 50], weights=[1, 2], document_masking=True)
    assert (tmp_path / "s" / "manifest.json").stat().st_mtime_ns == before


def test_the_manifest_says_what_the_store_is_made_from(tmp_path: Path) -> None:
    source = Texts(_numbered(30))
    store = prepare(tmp_path / "s", [source], Bytes(), DataSettings(), seed=5, extra={"code": "abc"})
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["code"] == "abc"
    assert manifest["tokenizer"] == Bytes().hash == manifest["made_from"]["tokenizer"]
    assert manifest["made_from"]["sources"] == [source.fingerprint()]
    assert (manifest["made_from"]["seed"], manifest["valid_ratio"]) == (5, 0.1)
    assert set(manifest["files"]) == {"train.bin", "train.idx", "valid.bin", "valid.idx", "documents.safetensors"}
    assert len(store.fingerprint) == 64


# Whole or not at all

_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from made_text import Bytes, Texts, make

class Endless(Texts):
    def documents(self):
        for document in super().documents():
            yield document
        print("written", flush=True)
        time.sleep(60)

sys.modules["firstlight.store.prepare"]._BATCH_CHARACTERS = 100
make(Path(sys.argv[1]), Endless(["some text " * 5] * 400))
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_half_way_nothing_looks_finished(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    child = subprocess.Popen([sys.executable, "-c", _KILLED, tmp_path / "s", here], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    assert [p.name for p in tmp_path.iterdir()] == [".firstlight-prepare-s"]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with pytest.raises(StoreError, match="not a complete token store"):
        TokenStore.open(tmp_path / "s")
    make(tmp_path / "s", ["other text " * 50])
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


class _FullDisk:
    """A file that has room for some bytes, and then none."""

    def __init__(self, file: object, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: memoryview) -> int:
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)  # type: ignore[attr-defined, no-any-return]

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 3000])
@pytest.mark.parametrize("side", ["train", "valid"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, side: str) -> None:
    from firstlight.store import writer as module

    class Small(module.StoreWriter):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            self._files[side] = _FullDisk(self._files[side], room)  # type: ignore[assignment]

    monkeypatch.setattr(MODULE, "StoreWriter", Small)
    with pytest.raises(StorageError, match="no space left on the disk"):
        make(tmp_path / "s", [f"text number {i} " * 100 for i in range(100)], valid_ratio=0.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
def test_a_disk_that_is_full_when_files_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from firstlight.store import writer as module

    class Small(module.StoreWriter):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            self._files["train"].close()
            self._files["train"] = Path("/dev/full").open("r+b")  # type: ignore[assignment]  # noqa: SIM115

    monkeypatch.setattr(MODULE, "StoreWriter", Small)
    with pytest.raises(StorageError, match="no space left on the disk"):
        make(tmp_path / "s", [f"text number {i}" for i in range(100)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="permission denied"):
            make(tmp_path / "s", ["text " * 50])
    finally:
        tmp_path.chmod(0o700)


def test_index_and_ids_agree_with_megatron(tmp_path: Path) -> None:
    store = make(tmp_path / "s", _numbered(40))
    bounds, dtype = read_index(store.directory / "valid.idx")
    raw = np.fromfile(store.directory / "valid.bin", dtype)
    assert raw.tolist() == store.valid.tokens.tolist()
    assert all(raw[b - 1] == EOT for b in bounds[1:])
