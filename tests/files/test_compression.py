"""Compressed files are read whole, whatever their frames, and their size is judged before."""

import builtins
import bz2
import gzip
import lzma
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from firstlight.errors import CorpusError, MissingExtra
from firstlight.files.compression import estimate_size, inner_suffix, open_compressed, open_seekable

RANDOM = random.Random(3).randbytes(300_000)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
every = pytest.mark.parametrize("suffix", PACK)


def written(folder: Path, suffix: str, data: bytes) -> Path:
    path = folder / f"a.txt{suffix}"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.txt", ".txt"),
        ("a.TXT.GZ", ".txt"),
        ("a.b.json.zst", ".json"),
        ("README", ""),
        ("a.gz", ""),
        ("a.tar.xz", ".tar"),
    ],
)
def test_suffix_below_the_compression(name: str, suffix: str):
    assert inner_suffix(Path(name)) == suffix


@every
@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_many_frames_are_read_as_one_text(tmp_path: Path, suffix: str, step: int):
    data = RANDOM[:3000]
    path = written(tmp_path, suffix, PACK[suffix](data) + PACK[suffix](b"") + PACK[suffix](b"more"))
    found = b""
    with open_compressed(path) as file:
        while block := file.read(step):
            found += block
    assert found == data + b"more"


def test_skippable_frames_are_skipped(tmp_path: Path):
    frame = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"index"
    path = written(tmp_path, ".zst", frame + zstd(b"one ") + frame + zstd(b"two") + frame)
    with open_compressed(path) as file:
        assert file.read() == b"one two"


@every
def test_a_flipped_bit_is_found(tmp_path: Path, suffix: str):
    data = bytearray(PACK[suffix](RANDOM))
    data[len(data) // 2] ^= 8
    path = written(tmp_path, suffix, bytes(data))
    with pytest.raises(CorpusError, match="damaged or truncated"), open_compressed(path) as file:
        file.read()


@every
@pytest.mark.parametrize("kept", [0.001, 0.3, 0.999])
def test_a_cut_is_found(tmp_path: Path, suffix: str, kept: float):
    data = PACK[suffix](RANDOM)
    path = written(tmp_path, suffix, data[: int(len(data) * kept)])
    with pytest.raises(CorpusError, match="damaged or truncated"), open_compressed(path) as file:
        file.read()


@every
def test_unpacking_takes_constant_memory(tmp_path: Path, suffix: str):
    path = written(tmp_path, suffix, PACK[suffix](bytes(48 << 20)))
    size = 0
    tracemalloc.start()
    try:
        with open_compressed(path) as file:
            while block := file.read(1 << 20):
                size += len(block)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 48 << 20
    assert peak < 24 << 20  # Zstandard's blocks of zeros unpack to some megabytes at a time


@every
def test_seekable_unpacks(tmp_path: Path, suffix: str):
    path = written(tmp_path, suffix, PACK[suffix](RANDOM))
    with open_seekable(path) as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == RANDOM[-10:]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_named(tmp_path: Path):
    path = written(tmp_path, "", b"secret")
    path.chmod(0)
    with pytest.raises(CorpusError, match="Permission denied"), open_compressed(path):
        pass


def test_a_folder_is_no_file(tmp_path: Path):
    with pytest.raises(CorpusError, match="a folder"), open_compressed(tmp_path):
        pass


def test_a_failing_disk_is_named(tmp_path: Path):
    path = written(tmp_path, ".gz", gzip.compress(b"x"))
    with pytest.raises(CorpusError, match="cannot be read: Input/output error"), open_compressed(path):
        raise OSError(5, "Input/output error")


def test_zstandard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path, ".zst", zstd(b"text"))
    real = builtins.__import__

    def no_zstandard(name: str, *args: object, **kwargs: object) -> object:
        if name == "zstandard":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_zstandard)
    with pytest.raises(MissingExtra, match=r"pip install .*zstandard"), open_compressed(path):
        pass
    assert estimate_size([path]) == path.stat().st_size


@every
def test_size_of_small_files_is_exact(tmp_path: Path, suffix: str):
    plain = written(tmp_path, "", b"12345")
    packed = written(tmp_path, suffix, PACK[suffix](b"a" * 10_000))
    assert estimate_size([plain, packed]) == 10_005


@every
def test_size_of_large_files_is_near(tmp_path: Path, suffix: str):
    rng = random.Random(5)
    text = " ".join(str(rng.randint(0, 10**6)) for _ in range(150_000)).encode()
    path = written(tmp_path, suffix, PACK[suffix](text))
    assert estimate_size([path]) == pytest.approx(len(text), rel=0.25)


def test_size_of_a_damaged_file_is_no_error(tmp_path: Path):
    path = written(tmp_path, ".gz", b"nothing of the kind")
    assert estimate_size([path]) == path.stat().st_size
