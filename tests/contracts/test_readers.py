"""The contract of corpus readers, for every entry of READERS under every compression, and for one from outside."""

import bz2
import csv
import gzip
import html
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from firstlight.corpus import READERS, CorpusSettings, Tally, infer_kind, open_corpus
from firstlight.errors import ConfigError, CorpusError, MissingExtra
from firstlight.types import Document

pytestmark = pytest.mark.usefixtures("trust_files")

TEXTS = ["First, plain.", "Zweitens: ä — 中文 🙂", 'with "quotes", commas; and a colon:', "twice", "twice"]
MANY = CorpusSettings()


def table(texts: list[str]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "text"])
    writer.writerows([str(i), t] for i, t in enumerate(texts))
    return out.getvalue().encode()


def parquet(texts: list[str], column: str = "text", row_group: int = 2) -> bytes:
    out = io.BytesIO()
    content = pyarrow.table({"id": list(range(len(texts))), column: pyarrow.array(texts, pyarrow.string())})
    pyarrow.parquet.write_table(content, out, row_group_size=row_group, compression="none", use_dictionary=False)
    return out.getvalue()


TEXT_SUFFIXES = READERS[".txt"].suffixes
# How a file with these documents looks; a reader without an entry fails test_every_reader_is_tested.
FORMATS: dict[str, Callable[[list[str]], bytes]] = {
    ".txt": lambda texts: "\n".join(texts).encode(),
    ".jsonl": lambda texts: "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode(),
    ".json": lambda texts: json.dumps([{"id": i, "text": t} for i, t in enumerate(texts)]).encode(),
    ".csv": table,
    ".tsv": lambda texts: "".join(["id\ttext\n", *(f"{i}\t{t}\n" for i, t in enumerate(texts))]).encode(),
    ".parquet": parquet,
    ".html": lambda texts: (
        f"<html><body>{'<br>'.join(html.escape(t, quote=False) for t in texts)}</body></html>".encode()
    ),
}
# The writer of each suffix: that of its reader.
WRITERS = {s: write for first, write in FORMATS.items() for s in READERS[first].suffixes}
ONE_PER_FILE = {*TEXT_SUFFIXES, ".html", ".htm"}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
# One suffix a reader; the others of the same reader differ in nothing but the table.
SUFFIXES = list(FORMATS)
every_reader = pytest.mark.parametrize("suffix", SUFFIXES)
every_compression = pytest.mark.parametrize("packing", COMPRESS)


def make(folder: Path, suffix: str, packing: str, data: bytes) -> Path:
    path = folder / f"file{suffix}{packing}"
    path.write_bytes(COMPRESS[packing](data))
    return path


def read(path: Path, suffix: str, settings: CorpusSettings = MANY, tally: Tally | None = None) -> list[Document]:
    return list(READERS[suffix].read(path, settings, tally or Tally()))


def texts_of(documents: list[Document]) -> list[str]:
    whole, held = [], ""
    for document in documents:
        held += str(document.content)
        if not document.continues:
            whole.append(held)
            held = ""
    return whole


def expected(suffix: str, texts: list[str] = TEXTS) -> list[str]:
    return ["\n".join(texts)] if suffix in ONE_PER_FILE else texts


def noise(n: int) -> list[str]:
    """Texts that do not compress, so that a cut file ends in the midst of them."""
    rng = random.Random(1)
    return [" ".join(rng.choice("abcdefghijklmnop") * rng.randint(1, 4) for _ in range(40)) for _ in range(n)]


def test_every_reader_is_tested():
    assert set(READERS) == set(WRITERS)


def test_an_optional_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    optional = {suffix: READERS[suffix].extra for suffix in SUFFIXES if READERS[suffix].extra is not None}
    assert optional == {".parquet": "parquet"}
    path = make(tmp_path, ".parquet", "", parquet(TEXTS))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install .*pyarrow"):
        read(path, ".parquet")


@pytest.mark.parametrize("suffix", READERS)
@every_compression
def test_documents_come_back_with_their_place(tmp_path: Path, suffix: str, packing: str):
    path = make(tmp_path, suffix, packing, WRITERS[suffix](TEXTS))
    source = open_corpus([str(path)]).sources[0]
    documents = list(source.documents())
    assert texts_of(documents) == expected(suffix)
    assert all(d.source.startswith(str(path)) for d in documents)
    assert (source.tally.seen, source.tally.documents) == (len(expected(suffix)),) * 2


@every_reader
def test_a_second_reading_gives_the_same(tmp_path: Path, suffix: str):
    path = make(tmp_path, suffix, ".gz", WRITERS[suffix](TEXTS))
    source = open_corpus([str(path)]).sources[0]
    assert list(source.documents()) == list(source.documents())


@every_reader
def test_places_differ_between_documents(tmp_path: Path, suffix: str):
    path = make(tmp_path, suffix, "", WRITERS[suffix](TEXTS))
    places = [d.source for d in read(path, suffix)]
    assert len(set(places)) == len(places)


@every_reader
@every_compression
def test_an_empty_file_holds_no_text(tmp_path: Path, suffix: str, packing: str):
    path = tmp_path / f"file{suffix}{packing}"
    path.write_bytes(b"")
    with pytest.raises(CorpusError) as caught:
        list(open_corpus([str(path)]))
    assert str(path) in str(caught.value)


@every_reader
@every_compression
def test_nothing_compressed_holds_no_text(tmp_path: Path, suffix: str, packing: str):
    path = make(tmp_path, suffix, packing, b"")
    with pytest.raises(CorpusError, match="holds no text" if suffix != ".parquet" else "not a readable Parquet"):
        list(open_corpus([str(path)]))


@every_reader
@pytest.mark.parametrize("packing", [p for p in COMPRESS if p])
@pytest.mark.parametrize("cut", [0.5, -3])
def test_a_cut_file_is_named(tmp_path: Path, suffix: str, packing: str, cut: float):
    path = make(tmp_path, suffix, packing, WRITERS[suffix](noise(2000)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut) if cut > 0 else int(cut)])
    with pytest.raises(CorpusError, match="damaged or truncated") as caught:
        read(path, suffix)
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 1


@every_reader
@pytest.mark.parametrize("packing", [p for p in COMPRESS if p])
def test_what_is_not_compressed_is_named(tmp_path: Path, suffix: str, packing: str):
    path = tmp_path / f"file{suffix}{packing}"
    path.write_bytes(b"this is no archive " * 100)
    with pytest.raises(CorpusError, match="damaged or truncated"):
        read(path, suffix)


@every_reader
def test_a_missing_file_is_named(tmp_path: Path, suffix: str):
    with pytest.raises(CorpusError, match="cannot be read: No such file"):
        read(tmp_path / f"file{suffix}", suffix)


def bad_bytes(suffix: str) -> tuple[bytes, int]:
    """A file with one byte of Latin-1, and its offset."""
    data = WRITERS[suffix](["good", "caf\x00", "end"])
    place = data.replace(b"\\u0000", b"\x00").index(b"\x00")
    return data.replace(b"\\u0000", b"\x00").replace(b"\x00", b"\xe9"), place


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".parquet"])
@pytest.mark.parametrize("packing", ["", ".xz"])
def test_bad_bytes_are_refused_replaced_or_skipped(tmp_path: Path, suffix: str, packing: str):
    data, place = bad_bytes(suffix)
    path = make(tmp_path, suffix, packing, data)
    with pytest.raises(CorpusError, match="is not UTF-8") as caught:
        read(path, suffix)
    assert caught.value.where == f"{path}: byte {place}"
    assert caught.value.found is not None
    assert caught.value.found.startswith("e9; reads as CP1252: ")
    for choice, put in (("replace", "\ufffd"), ("skip", "")):
        tally = Tally()
        documents = read(path, suffix, CorpusSettings(on_bad_bytes=choice), tally)
        assert texts_of(documents) == expected(suffix, ["good", f"caf{put}", "end"])
        assert (tally.n_bad, tally.bad_bytes) == (1, [f"{path}: byte {place}"])


def test_bad_bytes_in_parquet_are_named(tmp_path: Path):
    offsets = pyarrow.py_buffer(b"".join(i.to_bytes(4, "little") for i in (0, 4, 8)))
    array = pyarrow.StringArray.from_buffers(2, offsets, pyarrow.py_buffer(b"goodcaf\xe9"))
    pyarrow.parquet.write_table(pyarrow.table({"text": array}), tmp_path / "file.parquet")
    with pytest.raises(CorpusError, match="is not UTF-8"):
        read(tmp_path / "file.parquet", ".parquet")


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".parquet"])
@pytest.mark.parametrize("newlines", ["lf", "keep"])
def test_a_byte_order_mark_and_crlf_change_no_document(tmp_path: Path, suffix: str, newlines: str):
    texts = ["one", "two"]
    data = b"\xef\xbb\xbf" + WRITERS[suffix](texts).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    path = make(tmp_path, suffix, "", data)
    kept = ["\ufeffone\r\ntwo"] if suffix in TEXT_SUFFIXES else expected(suffix, texts)
    found = read(path, suffix, CorpusSettings(newlines=newlines))
    assert texts_of(found) == (kept if newlines == "keep" else expected(suffix, texts))


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s not in ONE_PER_FILE])
def test_a_missing_field_is_named_with_the_nearest(tmp_path: Path, suffix: str):
    path = make(tmp_path, suffix, "", WRITERS[suffix](TEXTS))
    with pytest.raises(CorpusError, match="'txt'") as caught:
        read(path, suffix, CorpusSettings(text_field="txt"))
    assert str(path) in str(caught.value.where)
    assert caught.value.fix is not None
    assert caught.value.fix.endswith("corpus.text_field=text")
    assert "id, text" in str(caught.value.found)


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s not in ONE_PER_FILE])
def test_another_field_is_read(tmp_path: Path, suffix: str):
    data = WRITERS[suffix](TEXTS).replace(b"text", b"body") if suffix != ".parquet" else parquet(TEXTS, "body")
    path = make(tmp_path, suffix, "", data)
    assert texts_of(read(path, suffix, CorpusSettings(text_field="body"))) == TEXTS


LINE = "It was a dark and stormy night; the rain fell in torrents. " * 20
COPIES = 20_000  # about 24 MB of text


def big_file(folder: Path, suffix: str) -> Path:
    """Write a long file without ever holding it: the beginning of a short one, its middle again and again, its end."""
    if suffix == ".parquet":
        path = folder / "big.parquet"
        content = pyarrow.table({"text": [LINE] * COPIES})
        pyarrow.parquet.write_table(content, path, compression="none", use_dictionary=False, row_group_size=COPIES)
        return path
    write = WRITERS[suffix]
    two, three = write([LINE] * 2), write([LINE] * 3)
    at, more = len(os.path.commonprefix([two, three])), len(three) - len(two)
    path = folder / f"big{suffix}.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(two[:at])
        for _ in range(COPIES - 2):
            file.write(three[at : at + more])
        file.write(two[at:])
    return path


@every_reader
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str):
    path = big_file(tmp_path, suffix)
    characters, arrow = 0, 0
    tracemalloc.start()
    try:
        for document in READERS[suffix].read(path, MANY, Tally()):
            characters += len(document.content)
            arrow = max(arrow, pyarrow.total_allocated_bytes())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert characters >= COPIES * (len(LINE) - 1)
    assert peak + arrow < 10 << 20


# ---- A reader from another package

SUBTITLES = '''
from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.errors import CorpusError
from firstlight.files.compression import open_compressed
from firstlight.types import Document


class Subtitles:
    """One document per subtitle."""

    suffixes = (".srt",)
    extra = None

    def read(self, path, settings, tally):
        with open_compressed(path) as file:
            for block in split_stream(decode_chunks(file, str(path), settings, tally, strip_bom=True), "\\n\\n"):
                number, times, *lines = block.strip("\\n").split("\\n")
                if "-->" not in times:
                    raise CorpusError("has no times", where=f"{path}: subtitle {number}")
                yield Document("\\n".join(lines), f"{path}: subtitle {number}")


class Broken(Subtitles):
    def read(self, path, settings, tally):
        yield Document("one", str(path))
        raise KeyError("two")


class Numbers(Subtitles):
    def read(self, path, settings, tally):
        yield 17


class WithArguments(Subtitles):
    def __init__(self, option):
        pass


class NoSuffix(Subtitles):
    suffixes = "srt"


class OtherRead(Subtitles):
    def read(self, path):
        yield from ()


instance = Subtitles()
'''
TALK = "1\n00:00:01,0 --> 00:00:02,0\nHello.\n\n2\n00:00:02,0 --> 00:00:03,0\nTwo\nlines.\n"


@pytest.fixture
def subtitles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of subtitles, and a package ``subtitles`` that reads them."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "subtitles.py").write_text(SUBTITLES)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "subtitles", raising=False)
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "a.srt").write_text(TALK)
    (folder / "b.srt.gz").write_bytes(gzip.compress(TALK.replace("Hello", "Bye").encode()))
    (folder / "poster.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.mark.parametrize("name", ["Subtitles", "instance"])
def test_an_external_reader_reads_files_folders_and_globs(subtitles: Path, name: str):
    settings = CorpusSettings(readers=[f"subtitles:{name}"])
    for names in ([str(subtitles)], [f"{subtitles}/*.srt*"], [f"{subtitles}/a.srt", f"{subtitles}/b.srt.gz"]):
        assert infer_kind(names, settings) == "text"
        documents = [(d.content, d.source) for d in open_corpus(names, settings)]
        assert [text for text, _ in documents] == ["Hello.", "Two\nlines.", "Bye.", "Two\nlines."]
        assert documents[1][1] == f"{subtitles}/a.srt: subtitle 2"
    assert infer_kind([str(subtitles)]) == "images"
    assert ".srt" not in READERS


def test_an_external_reader_may_replace_a_builtin_one(subtitles: Path):
    (subtitles.parent / "code" / "subtitles.py").write_text(SUBTITLES.replace('".srt"', '".txt"'))
    (subtitles / "c.txt").write_text(TALK)
    [first, _] = open_corpus([str(subtitles / "c.txt")], CorpusSettings(readers=["subtitles:Subtitles"]))
    assert first.content == "Hello."


def test_errors_of_an_external_reader_name_it_and_the_file(subtitles: Path):
    for name, problem in (
        ("Broken", r"films/a.srt: subtitles:Broken failed: KeyError: 'two'"),
        ("Numbers", r"films/a.srt: subtitles:Numbers yielded something other than a Document of text .found int"),
    ):
        with pytest.raises(CorpusError, match=problem):
            list(open_corpus([str(subtitles / "a.srt")], CorpusSettings(readers=[f"subtitles:{name}"])))
    (subtitles / "a.srt").write_text("1\nno times\nHello.\n")
    with pytest.raises(CorpusError, match="a.srt: subtitle 1: has no times"):
        list(open_corpus([str(subtitles / "a.srt")], CorpusSettings(readers=["subtitles:Subtitles"])))


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("subtitles:Nothing", "cannot be loaded"),
        ("nowhere:Reader", "cannot be loaded"),
        ("subtitles:OtherRead", "its read does not accept"),
        ("subtitles:Document", "lacks suffixes, extra, read"),
        ("subtitles:WithArguments", "cannot be constructed"),
        ("subtitles:NoSuffix", "declares invalid suffixes"),
    ],
)
def test_what_is_not_a_reader_is_refused_before_it_is_called(subtitles: Path, reference: str, problem: str):
    with pytest.raises(ConfigError, match=problem) as caught:
        open_corpus([str(subtitles)], CorpusSettings(readers=[reference]))
    assert reference in caught.value.message
    assert "corpus.readers" in caught.value.message


def test_the_fingerprint_covers_the_code_of_an_external_reader(subtitles: Path):
    settings = CorpusSettings(readers=["subtitles:Subtitles"])
    before = open_corpus([str(subtitles)], settings).sources[0].fingerprint()
    (subtitles.parent / "code" / "subtitles.py").write_text(SUBTITLES + "# changed\n")
    assert open_corpus([str(subtitles)], settings).sources[0].fingerprint() != before


def test_without_external_readers_the_fingerprint_is_that_of_older_stores(tmp_path: Path):
    (tmp_path / "a.txt").write_text("text")
    [source] = open_corpus([str(tmp_path / "a.txt")]).sources
    assert source.fingerprint() == "37ad19baddd97aada75848b7e46a5625808e5dd77ca267285f79f2bd273a1c5b"


@pytest.mark.parametrize(
    "command",
    [
        ["data", "prepare", "films", "--out", "store", "tokenizer.kind=byte"],
        ["tokenizer", "train", "films", "--out", "made", "tokenizer.kind=byte"],
        pytest.param(
            ["pretrain", "films", "--out", "run", "--dry-run", "tokenizer.kind=byte", "model.block_size=8"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_command_line_takes_an_external_reader(
    subtitles: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
):
    (subtitles / "a.srt").write_text(TALK * 40)
    monkeypatch.chdir(subtitles.parent)
    command = [*command, 'corpus.readers=["subtitles:Subtitles"]']
    environment = {**os.environ, "PYTHONPATH": f"{subtitles.parent / 'code'}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-m", "firstlight", *command], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
