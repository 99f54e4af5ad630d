"""What every reader owes, plain and under every compression; a new entry of READERS is met here by itself."""

import bz2
import csv
import gzip
import html
import io
import json
import lzma
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from firstlight.corpus import READERS, CorpusSettings, Tally, open_corpus
from firstlight.corpus.readers import (
    read_csv,
    read_html,
    read_json,
    read_jsonl,
    read_parquet,
    read_text,
    read_tsv,
)
from firstlight.errors import CorpusError
from firstlight.types import Document

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


# How a file with these documents looks; a reader without an entry fails test_every_reader_is_tested.
WRITERS: dict[Callable[..., Iterator[Document]], Callable[[list[str]], bytes]] = {
    read_text: lambda texts: "\n".join(texts).encode(),
    read_jsonl: lambda texts: "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode(),
    read_json: lambda texts: json.dumps([{"id": i, "text": t} for i, t in enumerate(texts)]).encode(),
    read_csv: table,
    read_tsv: lambda texts: "".join(["id\ttext\n", *(f"{i}\t{t}\n" for i, t in enumerate(texts))]).encode(),
    read_parquet: parquet,
    read_html: lambda texts: (
        f"<html><body>{'<br>'.join(html.escape(t, quote=False) for t in texts)}</body></html>".encode()
    ),
}
ONE_A_FILE = {read_text, read_html}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
# One suffix a reader; the others of the same reader differ in nothing but the table.
SUFFIXES = {reader: suffix for suffix, reader in reversed(READERS.items())}
every_reader = pytest.mark.parametrize("suffix", SUFFIXES.values())
every_compression = pytest.mark.parametrize("packing", COMPRESS)


def make(folder: Path, suffix: str, packing: str, data: bytes) -> Path:
    path = folder / f"file{suffix}{packing}"
    path.write_bytes(COMPRESS[packing](data))
    return path


def read(path: Path, suffix: str, settings: CorpusSettings = MANY, tally: Tally | None = None) -> list[Document]:
    return list(READERS[suffix](path, settings, tally or Tally()))


def texts_of(documents: list[Document]) -> list[str]:
    whole, held = [], ""
    for document in documents:
        held += str(document.content)
        if not document.continues:
            whole.append(held)
            held = ""
    return whole


def expected(suffix: str, texts: list[str] = TEXTS) -> list[str]:
    return ["\n".join(texts)] if READERS[suffix] in ONE_A_FILE else texts


def noise(n: int) -> list[str]:
    """Texts that do not compress, so that a cut file ends in the midst of them."""
    rng = random.Random(1)
    return [" ".join(rng.choice("abcdefghijklmnop") * rng.randint(1, 4) for _ in range(40)) for _ in range(n)]


def test_every_reader_is_tested():
    assert set(READERS.values()) == set(WRITERS)


@pytest.mark.parametrize("suffix", READERS)
@every_compression
def test_documents_come_back_with_their_place(tmp_path: Path, suffix: str, packing: str):
    path = make(tmp_path, suffix, packing, WRITERS[READERS[suffix]](TEXTS))
    source = open_corpus([str(path)]).sources[0]
    documents = list(source.documents())
    assert texts_of(documents) == expected(suffix)
    assert all(d.source.startswith(str(path)) for d in documents)
    assert (source.tally.seen, source.tally.documents) == (len(expected(suffix)),) * 2


@every_reader
def test_a_second_reading_gives_the_same(tmp_path: Path, suffix: str):
    path = make(tmp_path, suffix, ".gz", WRITERS[READERS[suffix]](TEXTS))
    source = open_corpus([str(path)]).sources[0]
    assert list(source.documents()) == list(source.documents())


@every_reader
def test_places_differ_between_documents(tmp_path: Path, suffix: str):
    path = make(tmp_path, suffix, "", WRITERS[READERS[suffix]](TEXTS))
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
    path = make(tmp_path, suffix, packing, WRITERS[READERS[suffix]](noise(2000)))
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
    data = WRITERS[READERS[suffix]](["good", "caf\x00", "end"])
    place = data.replace(b"\\u0000", b"\x00").index(b"\x00")
    return data.replace(b"\\u0000", b"\x00").replace(b"\x00", b"\xe9"), place


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES.values() if s != ".parquet"])
@pytest.mark.parametrize("packing", ["", ".xz"])
def test_bad_bytes_are_refused_replaced_or_skipped(tmp_path: Path, suffix: str, packing: str):
    data, place = bad_bytes(suffix)
    path = make(tmp_path, suffix, packing, data)
    with pytest.raises(CorpusError, match="is not UTF-8") as caught:
        read(path, suffix)
    assert caught.value.where == f"{path}: byte {place}"
    assert caught.value.found == "e9"
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


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES.values() if s != ".parquet"])
@pytest.mark.parametrize("newlines", ["lf", "keep"])
def test_a_byte_order_mark_and_crlf_change_no_document(tmp_path: Path, suffix: str, newlines: str):
    texts = ["one", "two"]
    data = b"\xef\xbb\xbf" + WRITERS[READERS[suffix]](texts).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    path = make(tmp_path, suffix, "", data)
    kept = ["\ufeffone\r\ntwo"] if READERS[suffix] is read_text else expected(suffix, texts)
    found = read(path, suffix, CorpusSettings(newlines=newlines))
    assert texts_of(found) == (kept if newlines == "keep" else expected(suffix, texts))


@pytest.mark.parametrize("suffix", [s for r, s in SUFFIXES.items() if r not in ONE_A_FILE])
def test_a_missing_field_is_named_with_the_nearest(tmp_path: Path, suffix: str):
    path = make(tmp_path, suffix, "", WRITERS[READERS[suffix]](TEXTS))
    with pytest.raises(CorpusError, match="'txt'") as caught:
        read(path, suffix, CorpusSettings(text_field="txt"))
    assert str(path) in str(caught.value.where)
    assert caught.value.fix is not None
    assert caught.value.fix.endswith("--text-field text")
    assert "id, text" in str(caught.value.found)


@pytest.mark.parametrize("suffix", [s for r, s in SUFFIXES.items() if r not in ONE_A_FILE])
def test_another_field_is_read(tmp_path: Path, suffix: str):
    data = WRITERS[READERS[suffix]](TEXTS).replace(b"text", b"body") if suffix != ".parquet" else parquet(TEXTS, "body")
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
    write = WRITERS[READERS[suffix]]
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
        for document in READERS[suffix](path, MANY, Tally()):
            characters += len(document.content)
            arrow = max(arrow, pyarrow.total_allocated_bytes())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert characters >= COPIES * (len(LINE) - 1)
    assert peak + arrow < 10 << 20
