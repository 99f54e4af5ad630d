"""Sequences of ids: read as a stream, a row a document, and each bad id named by its place."""

import bz2
import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from arrays import little_memory

from firstlight.corpus import CorpusSettings, IdSettings, open_ids
from firstlight.errors import CorpusError, UsageError


def read(path: Path, **settings: object) -> list[tuple[str, list[int]]]:
    """Return each document's place and ids."""
    whole: list[tuple[str, list[int]]] = []
    held: list[int] = []
    corpus = open_ids([str(path)], IdSettings.model_validate({"vocab_size": 100, **settings}), CorpusSettings())
    for document in corpus:
        held += np.asarray(document.content).tolist()
        if not document.continues:
            whole.append((document.source.removeprefix(str(path)), held))
            held = []
    assert held == []
    assert corpus.tally.documents == len(whole)
    return whole


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">i4", "i8", "u8"])
@pytest.mark.parametrize("packing", ["", ".gz", ".bz2"])
def test_an_array_is_one_document_or_a_document_a_row(tmp_path: Path, dtype: str, packing: str):
    rows = np.arange(60).reshape(5, 12).astype(dtype)
    for array, wanted in (
        (rows.reshape(-1), [("", list(range(60)))]),
        (rows, [(f":{i}", row.tolist()) for i, row in enumerate(rows)]),
    ):
        np.save(tmp_path / "a.npy", array)
        path = tmp_path / f"a.npy{packing}"
        data = (tmp_path / "a.npy").read_bytes()
        path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[packing](data))
        assert read(path) == wanted


def test_raw_numbers_are_little_endian_and_of_the_type_that_is_set(tmp_path: Path):
    path = tmp_path / "train.bin"
    path.write_bytes(np.arange(50).astype("<u2").tobytes())
    assert read(path) == [("", list(range(50)))]
    path.write_bytes(np.arange(50).astype("<i4").tobytes())
    assert read(path, dtype="int32") == [("", list(range(50)))]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorpusError, match="is not a whole number of int32.*ids.dtype"):
        read(path, dtype="int32")


def test_the_place_of_a_bad_id_is_named(tmp_path: Path):
    for array, place in (
        (np.array([1, 2, 100, 200]), "index 2"),
        (np.array([1, -1]), "index 1"),
        (np.array([[1, 2, 3], [4, 5, 2**40]]), "row 1, column 2"),
    ):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(CorpusError, match="outside the vocabulary .found .*; expected 0 to 99") as caught:
            read(tmp_path / "a.npy")
        assert caught.value.where == f"{tmp_path / 'a.npy'}: {place}"


def test_long_documents_come_in_pieces_and_small_memory(tmp_path: Path):
    path, n = tmp_path / "a.npy.gz", 6_000_000
    np.save(tmp_path / "a.npy", (np.arange(n) % 90).astype(np.uint8))
    path.write_bytes(gzip.compress((tmp_path / "a.npy").read_bytes(), 1))
    total, pieces = 0, 0
    with little_memory(40):
        for document in open_ids([str(path)], IdSettings(vocab_size=90), CorpusSettings()):
            assert document.content[0] == total % 90
            total, pieces = total + len(document.content), pieces + 1
            assert document.continues == (total < n)
    assert (total, pieces) == (n, 6)


def test_rows_that_are_longer_than_a_piece(tmp_path: Path):
    rows = (np.arange(3 * 900_001) % 90).reshape(3, -1).astype(np.uint8)
    np.save(tmp_path / "a.npy", rows)
    found = read(tmp_path / "a.npy")
    assert [ids for _, ids in found] == rows.tolist()
    assert [place for place, _ in found] == [":0", ":1", ":2"]


def test_the_vocabulary_must_be_said(tmp_path: Path):
    with pytest.raises(UsageError, match="ids.vocab_size: is required for ids"):
        open_ids(["a.npy"], IdSettings(), CorpusSettings())


def header(text: str) -> bytes:
    data = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\0" + len(data).to_bytes(2, "little") + data


HOSTILE = {
    "a count beyond the file": header("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"),
    "a negative length": header("{'descr': '<i8', 'fortran_order': False, 'shape': (-5, 3), }"),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + pickle.dumps([1]),
    "floats": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }") + bytes(8),
    "an item of a gigabyte": header("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (9,), }"),
    "columns": header("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2), }") + bytes(4),
    "three axes": header("{'descr': '|i1', 'fortran_order': False, 'shape': (1, 1, 1), }") + bytes(1),
    "code": header("{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (1,), }"),
    "no dictionary": header("(" * 110),
    "a header of 4 GB": b"\x93NUMPY\x02\0\xff\xff\xff\xff{",
    "more than it says": header("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }") + bytes(3),
    "less than it says": header("{'descr': '|u1', 'fortran_order': False, 'shape': (9,), }") + bytes(3),
    "nothing": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_hostile_files_get_one_line_and_no_memory(tmp_path: Path, data: bytes, packing: str):
    path = tmp_path / f"a.npy{packing}"
    path.write_bytes(gzip.compress(data) if packing else data)
    with pytest.raises(CorpusError) as caught, little_memory(70):
        read(path)
    assert str(caught.value.where).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "said"), [("<u4", "uint16"), ("<i8", "uint32"), ("<u2", "uint32"), (">u4", "uint32")]
)
def test_ids_of_another_width_are_refused(tmp_path: Path, stored: str, said: str):
    """Read as 16 bits, ids of 32 bits are twice as many valid ids."""
    vocab_size = 50_000 if stored == "<u2" else 128_256
    path = tmp_path / "train.bin"
    path.write_bytes(np.random.default_rng(0).integers(0, vocab_size, 500).astype(stored).tobytes())
    with pytest.raises(CorpusError, match=r"look like another type \(found \d\d bits"):
        read(path, dtype=said, vocab_size=vocab_size)
    path.write_text("A text with the name of a file of ids.\n" * 8)
    with pytest.raises(CorpusError, match="is a text file"):
        read(path, dtype=said, vocab_size=vocab_size)


def test_a_memory_map_with_the_name_of_an_array(tmp_path: Path):
    """OLMo's files have the suffix .npy and no header."""
    path = tmp_path / "part-0-00000.npy"
    path.write_bytes(np.arange(90).astype("<u2").tobytes())
    with pytest.raises(CorpusError, match=r"is not an .npy file, in spite of its name.*name it .bin"):
        read(path)
    assert read(path.rename(path.with_suffix(".bin"))) == [("", list(range(90)))]
