"""The index is Megatron-LM's: a reader and bytes written from its description, not from our code."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.errors import StoreError
from firstlight.store import megatron, open_megatron, read_index, write_index

# Two documents, of 3 and of 1 tokens, as int32; written by hand.
BY_HAND = bytes.fromhex(
    "4d4d494449445800 00"  # MMIDIDX and two zeros
    "0100000000000000"  # version 1
    "04"  # int32
    "0200000000000000"  # sequences
    "0300000000000000"  # document bounds
    "03000000 01000000"  # lengths in tokens
    "0000000000000000 0c00000000000000"  # offsets in bytes
    "0000000000000000 0100000000000000 0200000000000000"  # bounds
)


def reference_reader(path: Path) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Read an index as Megatron-LM's indexed_dataset.py describes it: (code, lengths, pointers, document indices)."""
    with path.open("rb") as stream:
        assert stream.read(9) == b"MMIDIDX\x00\x00"
        assert struct.unpack("<Q", stream.read(8)) == (1,)
        (code,) = struct.unpack("<B", stream.read(1))
        (sequences,) = struct.unpack("<Q", stream.read(8))
        (documents,) = struct.unpack("<Q", stream.read(8))
        lengths = np.fromfile(stream, "<i4", sequences)
        pointers = np.fromfile(stream, "<i8", sequences)
        indices = np.fromfile(stream, "<i8", documents)
        assert stream.read() == b""
    return code, lengths, pointers, indices


def test_the_bytes_are_those_written_by_hand(tmp_path: Path) -> None:
    write_index(tmp_path / "a.idx", np.array([3, 1]), np.dtype("<i4"))
    assert (tmp_path / "a.idx").read_bytes() == BY_HAND


def test_bytes_written_by_hand_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(BY_HAND)
    bounds, dtype = read_index(tmp_path / "a.idx")
    assert (bounds.tolist(), dtype) == ([0, 3, 4], np.dtype("<i4"))
    (tmp_path / "a.bin").write_bytes(np.array([7, 8, 9, 70_000], dtype="<i4").tobytes())
    ids, bounds = open_megatron(tmp_path / "a")
    assert ids.tolist() == [7, 8, 9, 70_000]


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=30), wide=st.booleans())
def test_another_reader_finds_each_document(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], wide: bool
) -> None:
    path = tmp_path_factory.mktemp("index") / "a.idx"
    dtype = np.dtype("<i4" if wide else "<u2")
    write_index(path, np.array(lengths), dtype)
    code, sizes, pointers, indices = reference_reader(path)
    assert code == (4 if wide else 8)
    assert sizes.tolist() == lengths
    assert pointers.tolist() == (np.cumsum([0, *lengths[:-1]]) * dtype.itemsize).tolist()
    assert indices.tolist() == list(range(len(lengths) + 1))
    assert read_index(path)[0].tolist() == np.cumsum([0, *lengths]).tolist()


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 50), min_size=1, max_size=12), longest=st.integers(1, 20))
def test_documents_longer_than_a_sequence_may_be(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], longest: int
) -> None:
    path = tmp_path_factory.mktemp("index") / "a.idx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(megatron, "_MAX_SEQUENCE", longest)
        write_index(path, np.array(lengths), np.dtype("<u2"))
    _, sizes, pointers, indices = reference_reader(path)
    assert sizes.max(initial=0) <= longest
    assert pointers.tolist() == (np.cumsum([0, *sizes[:-1].tolist()]) * 2).tolist()
    of_documents = [int(sizes[a:b].sum()) for a, b in zip(indices[:-1], indices[1:], strict=True)]
    assert of_documents == lengths
    assert read_index(path)[0].tolist() == np.cumsum([0, *lengths]).tolist()


def test_a_document_of_more_than_an_int32(tmp_path: Path) -> None:
    longest = 2**31 - 1
    write_index(tmp_path / "a.idx", np.array([5, 2 * longest + 3, 1]), np.dtype("<u2"))
    _, sizes, pointers, indices = reference_reader(tmp_path / "a.idx")
    assert sizes.tolist() == [5, longest, longest, 3, 1]
    assert pointers.tolist() == [0, 10, 10 + 2 * longest, 10 + 4 * longest, 16 + 4 * longest]
    assert indices.tolist() == [0, 1, 4, 5]
    assert read_index(tmp_path / "a.idx")[0].tolist() == [0, 5, 2 * longest + 8, 2 * longest + 9]


@pytest.mark.parametrize(("code", "name"), [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")])
def test_types_of_ids_that_others_write(tmp_path: Path, code: int, name: str) -> None:
    changed = bytearray(BY_HAND)
    changed[17] = code
    size = np.dtype(name).itemsize
    changed[50:58] = struct.pack("<q", 3 * size)
    (tmp_path / "a.idx").write_bytes(changed)
    (tmp_path / "a.bin").write_bytes(np.array([1, 2, 3, 4], dtype=name).tobytes())
    assert open_megatron(tmp_path / "a")[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, 0x4E, "not a Megatron index"),
        (9, 2, "another version or type"),
        (17, 7, "another version or type"),  # float32
        (18, 3, "truncated or too long"),
        (26, 2, "truncated or too long"),
        (34, 4, "is inconsistent"),
        (37, 0x80, "is inconsistent"),
        (50, 8, "is inconsistent"),
        (58, 1, "is inconsistent"),
        (66, 9, "is inconsistent"),
        (74, 1, "is inconsistent"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, at: int, value: int, words: str) -> None:
    changed = bytearray(BY_HAND)
    assert changed[at] != value
    changed[at] = value
    (tmp_path / "a.idx").write_bytes(changed)
    with pytest.raises(StoreError, match=words) as caught:
        read_index(tmp_path / "a.idx")
    assert caught.value.where == str(tmp_path / "a.idx")


@pytest.mark.parametrize("size", [0, 5, 33, len(BY_HAND) - 1, len(BY_HAND) + 1])
def test_a_cut_or_overlong_index(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.idx").write_bytes((BY_HAND + b"\0")[:size])
    with pytest.raises(StoreError, match="not a Megatron index|truncated or too long"):
        read_index(tmp_path / "a.idx")


def test_missing_and_cut_ids(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a.idx: missing"):
        open_megatron(tmp_path / "a")
    (tmp_path / "a.idx").write_bytes(BY_HAND)
    with pytest.raises(StoreError, match="a.bin: missing"):
        open_megatron(tmp_path / "a")
    (tmp_path / "a.bin").write_bytes(bytes(15))
    with pytest.raises(StoreError, match="a.bin: is truncated or too long .found 15 bytes; expected 16"):
        open_megatron(tmp_path / "a")


@pytest.mark.parametrize(("size", "name"), [(257, "<u2"), (65_536, "<u2"), (65_537, "<i4"), (200_000, "<i4")])
def test_ids_take_the_smallest_type(size: int, name: str) -> None:
    dtype = megatron.smallest_dtype(size)
    assert dtype == np.dtype(name)
    assert np.array([size - 1]).astype(dtype)[0] == size - 1
