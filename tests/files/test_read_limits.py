"""Limits of reading untrusted files: memory, compression ratio, special files."""

import bz2
import gzip
import io
import lzma
import os
import socket
import zipfile
from pathlib import Path

import pytest

from firstlight.errors import CheckpointError, CorpusError
from firstlight.files import BoundedReader
from firstlight.files import limits as limits_module
from firstlight.files.compression import open_compressed, open_seekable
from firstlight.files.json_stream import parse_json
from firstlight.files.limits import Limits, open_regular, read_bounded
from firstlight.files.zips import open_zip

ZEROS = bytes(1 << 20)


@pytest.fixture
def checked_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check ratios from the first 64 kB, not 64 MiB."""
    monkeypatch.setattr(limits_module, "_UNCHECKED_BYTES", 1 << 16)


def _zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", _zstd)]
)
@pytest.mark.usefixtures("checked_early")
def test_decompression_bombs_are_refused_while_they_are_read(tmp_path: Path, suffix: str, compress) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress(ZEROS))
    for opened in (open_compressed, open_seekable):
        with pytest.raises(CorpusError, match="expands too far.*at most 200"), opened(path) as file:
            file.read()
    with open_compressed(path, limits=Limits(max_compression_ratio=1e9)) as file:
        assert file.read() == ZEROS


@pytest.mark.usefixtures("checked_early")
def test_a_large_file_of_an_ordinary_ratio_passes(tmp_path: Path) -> None:
    path, data = tmp_path / "a.txt.gz", b"".join(b"line %d of a log\n" % n for n in range(50_000))
    path.write_bytes(gzip.compress(data))
    with open_compressed(path) as file:
        assert file.read() == data


def test_xz_and_zstd_windows_count_as_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 25}]
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"text" * 1000, filters=filters))
    with (
        pytest.raises(CorpusError, match="too much memory"),
        open_compressed(path, limits=Limits(max_document_bytes=1 << 24)) as file,
    ):
        file.read()
    with open_compressed(path) as file:
        assert file.read() == b"text" * 1000
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=26)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "a.txt.zst"
    path.write_bytes(stream.compress(b"text" * 1000) + stream.flush())
    with (
        pytest.raises(CorpusError, match="too much memory"),
        open_compressed(path, limits=Limits(max_document_bytes=1 << 24)) as file,
    ):
        file.read()


def test_xz_of_several_streams_with_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"one ") + bytes(8) + lzma.compress(b"two") + bytes(4))
    with open_compressed(path) as file:
        assert file.read() == b"one two"


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    pipe, listener = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listener))
        for path in (pipe, Path("/dev/zero"), tmp_path):
            with pytest.raises(CorpusError, match="not a regular file"):
                open_regular(path)
            with pytest.raises(CheckpointError, match="not a regular file"):
                read_bounded(path, error=CheckpointError)
        with pytest.raises(CorpusError, match="cannot be read"):
            read_bounded(listener)


@pytest.mark.usefixtures("checked_early")
def test_gzipped_vectors_and_weights_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"0 " * (1 << 19)))
    with BoundedReader(path, CheckpointError, decompress=True) as reader:
        assert reader.size < 300_000
        with pytest.raises(CheckpointError, match="not enough bytes"):
            reader.read(1 << 20)
        with pytest.raises(CheckpointError, match="expands too far"):
            reader.readline(1 << 30)
    with pytest.raises(CheckpointError, match="not a regular file"):
        BoundedReader(Path("/dev/zero"), CheckpointError)


def test_a_whole_file_is_read_within_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"12345")
    assert read_bounded(path, limits=Limits(max_document_bytes=5)) == b"12345"
    with pytest.raises(CorpusError, match=r"more than 4 bytes\)\. .* raise corpus\.limits\.max_document_bytes"):
        read_bounded(path, limits=Limits(max_document_bytes=4, settings_key="corpus.limits"))
    with pytest.raises(CorpusError, match="No such file"):
        read_bounded(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "problem"),
    [("[" * 200_000, "nested too deeply"), ("1" * 5000, "too many digits"), ("{", "Expecting"), (b"\xff", "decode")],
)
def test_json_from_outside(text: str | bytes, problem: str) -> None:
    with pytest.raises(CorpusError, match=rf"^x: is not valid JSON: .*{problem}"):
        parse_json(text, "x")


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.usefixtures("checked_early")
def test_zip_members_are_bounded_one_by_one_and_together(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"large": ZEROS, "small": b"text"})
    with open_zip(path, limits=Limits(max_document_bytes=1000, max_compression_ratio=1e9)) as archive:
        assert archive.names == ["large", "small"]
        assert archive.read("small") == b"text"
        with pytest.raises(CorpusError, match=r"a\.zip!large: the member is too large"):
            archive.read("large")
    with open_zip(path) as archive, pytest.raises(CorpusError, match="expands too far"):
        archive.extract("large", io.BytesIO())
    with open_zip(path) as archive, pytest.raises(CorpusError, match="no such member"):
        archive.read("other")


@pytest.mark.parametrize(
    ("offset", "value", "problem"),
    [
        (8, 1, "is encrypted"),
        (10, 97, "method 97"),
        (10, 14, "lzma"),
        (6, 200, "cannot be read as a zip file: zip file version"),
    ],
)
def test_zip_members_that_cannot_be_read(tmp_path: Path, offset: int, value: int, problem: str) -> None:
    path = _zip(tmp_path / "a.zip", {"a": b"text" * 100})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + offset] = value  # of its entry in the central directory
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=problem), open_zip(path) as archive:
        archive.read("a")


def test_what_is_not_a_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for data in (b"", b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 18):
        path.write_bytes(data)
        with pytest.raises(CorpusError, match="cannot be read as a zip file"), open_zip(path):
            pass
