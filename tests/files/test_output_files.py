"""Files that a user names: never replaced unasked; pipes and devices are written through."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from firstlight.errors import StorageError, UsageError
from firstlight.files import check_output, is_stream, output_file, write_output


def test_a_new_file_is_written(tmp_path: Path) -> None:
    write_output(tmp_path / "new" / "a.png", b"1")
    assert (tmp_path / "new" / "a.png").read_bytes() == b"1"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"README.md: already exists. Choose another name, or add --overwrite"):
        write_output(path, b"1")
    assert path.read_text() == "mine"
    write_output(path, b"1", overwrite=True)
    assert path.read_bytes() == b"1"


def test_a_file_that_appears_in_the_meantime_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for link in (os.link, _no_links):
        monkeypatch.setattr(os, "link", link)
        path = tmp_path / link.__name__
        with pytest.raises(UsageError, match="already exists"), output_file(path) as temporary:
            temporary.write_bytes(b"1")
            path.write_text("mine")
        assert path.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def _no_links(source: Path, target: Path) -> None:
    raise OSError(95, "not supported")


def test_a_file_system_without_links_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_links)
    write_output(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), output_file(tmp_path / "a") as temporary:
        temporary.write_bytes(b"1")
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path, overwrite=True)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(UsageError, match="already exists"):
        write_output(tmp_path / "link", b"new")
    write_output(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("later")
    write_output(tmp_path / "dangling", b"new")
    assert (tmp_path / "later").read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_output(pipe, b"x" * 200_000)
    reader.join(10)
    assert found == [b"x" * 200_000] and is_stream(pipe)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_a_file_in_shared_memory_is_a_file_like_any_other() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # noqa: S108
        path = Path(folder) / "a.png"
        write_output(path, b"1")
        with pytest.raises(UsageError, match="already exists"):
            write_output(path, b"2")
        assert path.read_bytes() == b"1"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_devices_are_written_through() -> None:
    write_output(Path("/dev/null"), b"1")
    assert is_stream(Path("/dev/null"))
    with pytest.raises(StorageError, match="no space left"):
        write_output(Path("/dev/full"), b"1")


@pytest.mark.parametrize(
    "name", ["-", pytest.param("/dev/stdout", marks=pytest.mark.skipif(os.name != "posix", reason="posix"))]
)
@pytest.mark.parametrize("redirect", [False, True])
def test_standard_output(name: str, redirect: bool, tmp_path: Path) -> None:
    code = f"""
print('before')
from pathlib import Path
from firstlight.files import write_output
write_output(Path({name!r}), b'data')
"""
    if redirect:
        with (tmp_path / "out").open("wb") as file:
            subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
        found = (tmp_path / "out").read_bytes()
    else:
        found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert b"data" in found and b"before\n" in found
