"""Files and folders appear whole or not at all: full disks, kills, refusals."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.errors import StorageError
from firstlight.files import append_line, atomic_directory, remove_stale_files, storage_errors, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize(("number", "says"), [(errno.EFBIG, "ulimit -f"), (errno.ENOSPC, "Free some space")])
def test_an_error_of_the_system_in_safetensors_text_says_what_to_do(tmp_path: Path, number: int, says: str):
    from safetensors import SafetensorError

    text = f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"
    with pytest.raises(StorageError, match=says), atomic_directory(tmp_path / "folder"):
        raise SafetensorError(text)
    with (
        pytest.raises(StorageError) as raised,
        atomic_directory(tmp_path / "folder") as folder,
        storage_errors(folder / "model.safetensors"),
    ):
        raise SafetensorError(text)
    assert raised.value.where == str(tmp_path / "folder" / "model.safetensors")  # not that of the temporary folder
    with pytest.raises(SafetensorError), atomic_directory(tmp_path / "folder"):
        raise SafetensorError("invalid header")
    assert names(tmp_path) == []


def test_write_atomic_makes_folders_and_replaces(tmp_path: Path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomic(path, "one ü\n")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "the disk reports an error"),
    ],
)
def test_refused_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
):
    path = tmp_path / "file"
    write_atomic(path, "old")
    refuse(monkeypatch, call, number)
    with pytest.raises(StorageError, match=words) as caught:
        write_atomic(path, "new")
    monkeypatch.undo()
    assert caught.value.where == str(path)
    if call == "fsync":
        assert path.read_text() == "old"
    assert path.read_text() in ("old", "new")
    assert names(tmp_path) == ["file"]


def test_other_system_errors_pass(tmp_path: Path):
    with pytest.raises(ConnectionResetError), storage_errors(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_file_in_the_way(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="a file exists where a folder is needed"):
        write_atomic(tmp_path / "file" / "inside", "y")
    with pytest.raises(StorageError, match="a file exists where a folder is needed"):
        write_atomic(tmp_path / "file" / "inside" / "deeper", "y")
    with pytest.raises(StorageError, match="a folder exists where a file is needed"):
        (tmp_path / "folder" / "x").mkdir(parents=True)
        write_atomic(tmp_path / "folder", "y")


def test_a_name_that_is_too_long(tmp_path: Path):
    with pytest.raises(StorageError, match="too long"):
        write_atomic(tmp_path / ("x" * 300), "y")


def test_directory_appears_whole(tmp_path: Path):
    target = tmp_path / "deep" / "target"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("1")
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_text("2")
        assert not target.exists()
    assert (target / "sub" / "b").read_text() == "2"
    assert names(target.parent) == ["target"]


def test_directory_is_replaced_whole(tmp_path: Path):
    target = tmp_path / "target"
    for content in ("one", "two"):
        with atomic_directory(target) as folder:
            (folder / content).write_text(content)
    assert names(target) == ["two"]
    assert names(tmp_path) == ["target"]


def test_error_inside_leaves_the_old_directory(tmp_path: Path):
    target = tmp_path / "target"
    with atomic_directory(target) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_directory(target) as folder:
        (folder / "two").write_text("2")
        raise ZeroDivisionError
    assert names(target) == ["one"]
    assert names(tmp_path) == ["target"]


def test_full_disk_while_syncing_leaves_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "target"
    with atomic_directory(target) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(StorageError, match="no space left"), atomic_directory(target) as folder:
        (folder / "two").write_text("2")
        refuse(monkeypatch, "fsync", errno.ENOSPC)
    monkeypatch.undo()
    assert names(target) == ["one"]
    assert names(tmp_path) == ["target"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB; needs the right to mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_full_disk(small_disk: Path):
    write_atomic(small_disk / "kept", b"x" * 1000)
    with pytest.raises(StorageError, match="no space left"):
        write_atomic(small_disk / "kept", b"y" * 1_000_000)
    with pytest.raises(StorageError, match="no space left"), atomic_directory(small_disk / "folder") as folder:
        (folder / "big").write_bytes(b"z" * 1_000_000)
    assert (small_disk / "kept").read_bytes() == b"x" * 1000
    assert names(small_disk) == ["kept"]
    write_atomic(small_disk / "kept", b"y" * 10)


def test_append_line(tmp_path: Path):
    path = tmp_path / "log"
    append_line(path, "ä")
    append_line(path, "b")
    assert path.read_text(encoding="utf-8") == "ä\nb\n"
    with pytest.raises(StorageError):
        append_line(path / "below", "c")


def test_append_line_on_a_full_device():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match="no space left"):
        append_line(Path("/dev/full"), "x")


_ENDED = 2**31 - 1  # no process has this id


_OF_OTHERS = [
    ".old-mine",
    ".old-store",
    ".part-x",
    ".part-x-999999999-0123abcd",
    ".firstlight-old-mine",
    ".firstlight-part-x-12-notahash",
    f".firstlight-old-store-{_ENDED}-0123abcd.bak",
    f"firstlight-part-x-{_ENDED}-0123abcd",
]


def test_files_of_others_with_similar_names_stay(tmp_path: Path):
    for name in _OF_OTHERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").write_text("precious")
    (tmp_path / "mine").mkdir()
    assert remove_stale_files(tmp_path) == []
    assert names(tmp_path) == sorted([*_OF_OTHERS, "mine"])
    assert all((tmp_path / name / "thesis").read_text() == "precious" for name in _OF_OTHERS)
    with atomic_directory(tmp_path / "store") as folder:
        (folder / "new").write_text("")
    with atomic_directory(tmp_path / "store") as folder:
        (folder / "newer").write_text("")
    assert names(tmp_path) == sorted([*_OF_OTHERS, "mine", "store"])


@pytest.mark.skipif(os.name != "posix", reason="asks whether a process lives")
def test_a_folder_that_a_living_process_has_moved_aside_stays(tmp_path: Path):
    (tmp_path / f".firstlight-old-store-{os.getppid()}-0123abcd").mkdir()
    assert remove_stale_files(tmp_path) == []
    assert not (tmp_path / "store").exists()


def test_an_interrupted_rename_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rename, calls = Path.replace, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) < 3:
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    write_atomic(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.EINTR, errno.ESTALE, errno.EMFILE, errno.EINVAL, errno.EDEADLK])
def test_every_error_of_the_disk_is_one_of_ours(tmp_path: Path, number: int):
    with pytest.raises(StorageError), storage_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_leftovers_are_removed(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".firstlight-part-x-{ended.pid}-0123abcd").mkdir()
    (tmp_path / f".firstlight-part-x-{ended.pid}-0123abcd" / "file").write_text("1")
    (tmp_path / f".firstlight-part-y-z-{os.getpid()}-0123abcd").write_text("2")
    (tmp_path / "kept").write_text("3")
    assert len(remove_stale_files(tmp_path)) == 2
    assert names(tmp_path) == ["kept"]
    assert remove_stale_files(tmp_path / "absent") == []


@pytest.mark.skipif(os.name != "posix", reason="asks whether a process lives")
def test_what_a_living_process_writes_stays(tmp_path: Path):
    (tmp_path / f".firstlight-part-x-{os.getppid()}-0123abcd").write_text("1")
    assert remove_stale_files(tmp_path) == []


def test_a_folder_moved_aside_is_put_back(tmp_path: Path):
    (tmp_path / f".firstlight-old-store-{_ENDED}-0123abcd").mkdir()
    (tmp_path / f".firstlight-old-store-{_ENDED}-0123abcd" / "one").write_text("1")
    remove_stale_files(tmp_path)
    assert names(tmp_path) == ["store"]
    (tmp_path / f".firstlight-old-store-{_ENDED}-0123abcd").mkdir()
    remove_stale_files(tmp_path)
    assert names(tmp_path) == ["store"]
    assert names(tmp_path / "store") == ["one"]


REPLACING = """
    import sys
    from pathlib import Path
    from firstlight.files import atomic_directory, write_atomic

    root = Path(sys.argv[1])
    number = 0
    while True:
        number += 1
        write_atomic(root / "file", str(number) * 20_000)
        with atomic_directory(root / "folder") as folder:
            (folder / "a").write_text(str(number) * 20_000)
            (folder / "b").write_text(str(number) * 20_000)
        print(number, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kill_at_any_moment_leaves_whole_files(tmp_path: Path):
    for delay in (0.0, 0.003, 0.007, 0.013, 0.029):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(REPLACING), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        remove_stale_files(tmp_path)
        assert names(tmp_path) == ["file", "folder"]
        whole = (tmp_path / "file").read_text()
        number = whole[: len(whole) // 20_000]
        assert whole == number * 20_000
        one, two = (tmp_path / "folder" / "a").read_text(), (tmp_path / "folder" / "b").read_text()
        assert one == two
        assert len(one) % 20_000 == 0
        assert one
