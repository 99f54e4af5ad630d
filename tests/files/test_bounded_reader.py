"""BoundedReader: plain and gzipped files read alike, and no read goes beyond the file."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from firstlight.errors import CheckpointError, StoreError
from firstlight.files import BoundedReader

DATA = b"MAGI" + np.arange(6, dtype="<f4").tobytes() + "é word\nlast".encode()
both = pytest.mark.parametrize("gzipped", [False, True])


def reader_of(folder: Path, data: bytes, gzipped: bool, **options: object) -> BoundedReader:
    path = folder / "file.bin"
    path.write_bytes(gzip.compress(data) if gzipped else data)
    return BoundedReader(path, CheckpointError, decompress=True, **options)  # type: ignore[arg-type]


@both
def test_reads_in_order(tmp_path: Path, gzipped: bool) -> None:
    with reader_of(tmp_path, DATA, gzipped) as reader:
        assert reader.is_gzipped == gzipped
        assert reader.read(4) == b"MAGI"
        assert reader.unpack("2f") == (0.0, 1.0)
        assert reader.read_array(np.dtype("<f4"), (2, 2)).tolist() == [[2.0, 3.0], [4.0, 5.0]]
        assert reader.read_array(np.dtype("<f4"), (0, 9)).shape == (0, 9)
        assert reader.read_text(3) == "é "
        assert reader.readline(100) == b"word\n"
        assert (reader.line_number, reader.offset) == (1, len(DATA) - 4)
        assert reader.read_until(b"s", 10) == b"la"
        assert reader.read_all() == b"t"
        assert (reader.read_up_to(9), reader.readline(9)) == (b"", b"")


@both
def test_a_read_beyond_the_end_names_file_and_byte(tmp_path: Path, gzipped: bool) -> None:
    with reader_of(tmp_path, b"abcdef", gzipped) as reader:
        reader.read(4)
        with pytest.raises(CheckpointError, match="truncated or damaged: not enough bytes for the header") as caught:
            reader.read(3, "the header")
    assert str(caught.value.where).startswith(f"{tmp_path}/file.bin: byte ")
    assert (caught.value.found, caught.value.expected) == ("2 bytes", "3")


@both
@pytest.mark.parametrize("n", [-1, 1 << 62])
def test_nothing_is_allocated_for_an_absurd_size(tmp_path: Path, gzipped: bool, n: int) -> None:
    with reader_of(tmp_path, b"abcdef", gzipped) as reader, pytest.raises(CheckpointError, match="not enough bytes"):
        reader.read(n)
    with reader_of(tmp_path, b"abcdef", gzipped) as reader, pytest.raises(CheckpointError, match="not enough bytes"):
        reader.read_array(np.dtype("<f8"), (abs(n), 9))


@both
def test_lines_and_words_have_a_limit(tmp_path: Path, gzipped: bool) -> None:
    with reader_of(tmp_path, b"a\n" + b"b" * 50, gzipped) as reader:
        assert reader.readline(2) == b"a\n"
        with pytest.raises(CheckpointError, match="file.bin:2: line too long .expected at most 20 bytes"):
            reader.readline(20)
    with reader_of(tmp_path, b"b" * 50, gzipped) as reader, pytest.raises(CheckpointError, match="has no end"):
        reader.read_until(b" ", 20)


def test_a_plain_file_can_seek_and_arrays_outlive_the_reader(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, DATA, gzipped=False)
    reader.offset = 8
    array = reader.read_array(np.dtype("<f4"), (2,))
    reader.close()
    del reader
    assert array.tolist() == [1.0, 2.0]


def test_the_error_class_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read: No such file or directory"):
        BoundedReader(tmp_path / "missing", StoreError)
    not_utf8 = pytest.raises(CheckpointError, match=r"file\.bin: byte 0: a string is not UTF-8")
    with reader_of(tmp_path, b"\xff\xfe", gzipped=False) as reader, not_utf8:
        reader.read_text(2)
    with reader_of(tmp_path, b"", gzipped=False) as reader:
        assert (reader.size, reader.read_all()) == (0, b"")


@both
def test_progress_counts_stored_bytes(tmp_path: Path, gzipped: bool) -> None:
    seen: list[int] = []
    data = np.random.default_rng(0).integers(0, 256, 5 << 20, dtype=np.uint8).tobytes()
    with reader_of(tmp_path, data, gzipped, on_read=seen.append) as reader:
        while reader.read_up_to(1 << 18):
            continue
    assert len(seen) == 5
    assert sum(seen) == pytest.approx((tmp_path / "file.bin").stat().st_size, rel=0.2)


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(gzip.compress(DATA * 100)[:-20])
    with BoundedReader(path, StoreError, decompress=True) as reader, pytest.raises(StoreError, match="decompressed"):
        reader.read_all()
