"""Arrays from .npy and IDX files: what numpy saves comes back, what is damaged is refused."""

import gzip
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from firstlight.errors import CheckpointError, CorpusError
from firstlight.files import BoundedReader
from firstlight.files.arrays import load_array, read_npy

numbers = arrays.arrays(
    st.sampled_from(["<f4", ">f8", "|u1", "<i8", "|b1"]), arrays.array_shapes(min_dims=0, max_dims=3, max_side=4)
)


@given(array=numbers, fortran=st.booleans())
def test_what_numpy_saves_is_read(array: np.ndarray, fortran: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "saved.npy"
    np.save(path, np.asfortranarray(array) if fortran else array)
    found = read_npy(BoundedReader(path, CheckpointError))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_a_file_of_python_2_is_read(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.save(out, np.arange(3, dtype="<i4"))
    (tmp_path / "a.npy").write_bytes(out.getvalue().replace(b"(3,), } ", b"(3L,), }"))
    assert load_array(tmp_path / "a.npy", max_size=3).tolist() == [0, 1, 2]


@given(at=st.integers(0, 79), byte=st.integers(0, 255))
def test_a_damaged_header_is_read_or_refused(at: int, byte: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    np.save(path, np.ones((2, 3), np.float32))
    data = bytearray(path.read_bytes())
    data[at] = byte
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert read_npy(BoundedReader(path, CheckpointError)).nbytes <= len(data)
        except CheckpointError as error:
            assert str(path) in str(error)


def test_a_limit_and_a_kind(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(5))
    with pytest.raises(CorpusError, match="has too many numbers .found 5; expected at most 4"):
        load_array(tmp_path / "a.npy", max_size=4)
    with pytest.raises(CheckpointError, match="no numbers of an accepted type .found '<f8'; expected int or uint"):
        read_npy(BoundedReader(tmp_path / "a.npy", CheckpointError), kinds="iu")


def test_an_idx_file(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    data = bytes([0, 0, 8, 2]) + np.array([2, 3], ">u4").tobytes() + array.tobytes()
    (tmp_path / "idx.gz").write_bytes(gzip.compress(data))
    np.testing.assert_array_equal(load_array(tmp_path / "idx.gz", max_size=6), array)
    (tmp_path / "idx").write_bytes(data[:-1])
    with pytest.raises(CorpusError, match="is truncated or too long .found 17 bytes; expected 18, for 2 × 3 numbers"):
        load_array(tmp_path / "idx", max_size=6)
    (tmp_path / "idx").write_bytes(data[:10])
    with pytest.raises(CorpusError, match="truncated within its header"):
        load_array(tmp_path / "idx", max_size=6)


@pytest.mark.parametrize(
    "shape",
    [f"({'9' * 400},)", f"({'9' * 4000}, {'9' * 4000})", f"({'9' * 5000},)", "(0, 9223372036854775807, 4)", "(-1,)"],
)
def test_sizes_that_no_file_has(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}}}".encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(CorpusError, match="invalid") as caught:
        load_array(tmp_path / "a.npy", max_size=100)
    assert len(str(caught.value)) < 300
    (tmp_path / "a.idx").write_bytes(b"\0\0\x08\x04" + b"\0\0\0\0" + b"\xff" * 12)
    with pytest.raises(CorpusError, match="invalid shape"):
        load_array(tmp_path / "a.idx", max_size=100)
