"""The downloader against a server on this machine that breaks off, refuses, lies or is not there."""

import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from firstlight import progress
from firstlight.corpus import download as module
from firstlight.corpus import fetch
from firstlight.errors import CorpusError, StorageError
from firstlight.files import cache_dir

DATA = random.Random(7).randbytes(1_000_000)
RIGHT = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def target(web: Any, cache: Path) -> Path:
    web.files["/file"] = DATA
    return cache / "file.txt"


@pytest.fixture
def events() -> Any:
    found: list[progress.Event] = []
    with progress.listen(found.append):
        yield found


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.suffix != ".lock"}


def get(web: Any, target: Path, expected: str | None = RIGHT) -> Path:
    return fetch(f"{web.url}/file", target, expected, pause=0.001)


def test_a_file_is_fetched_once_with_progress(web: Any, target: Path, events: list[progress.Event]):
    assert get(web, target) == target
    assert target.read_bytes() == DATA
    assert names(target.parent) == {"file.txt"}
    steps = [e for e in events if e.task]
    assert {(e.task, e.total, e.unit) for e in steps} == {("fetch file.txt", len(DATA), "B")}
    assert [e.done for e in steps] == sorted(e.done for e in steps)
    assert len(steps) > 3
    assert (steps[-1].done, steps[-1].finished) == (len(DATA), True)
    get(web, target)
    assert web.requests == [("/file", None)]


def test_a_file_of_unknown_length(web: Any, target: Path, events: list[progress.Event]):
    web.sized = False
    get(web, target)
    assert target.read_bytes() == DATA
    assert {e.total for e in events if e.task} == {None}


def test_other_bytes_are_set_aside(web: Any, target: Path):
    with pytest.raises(CorpusError, match="SHA-256, and was renamed to file.txt.part.damaged") as caught:
        get(web, target, "0" * 64)
    assert (caught.value.found, caught.value.expected) == (f"SHA-256 {RIGHT}", "0" * 64)
    assert names(target.parent) - {"file.txt.lock"} == {"file.txt.part.damaged"}


def test_a_file_that_rotted_in_the_cache_is_set_aside_and_fetched_again(web: Any, target: Path):
    get(web, target)
    target.write_bytes(DATA[:-1])
    with pytest.raises(CorpusError, match="does not have the expected SHA-256, and was renamed to file.txt.damaged"):
        get(web, target)
    assert not target.exists()
    get(web, target)
    assert target.read_bytes() == DATA


def test_an_unknown_sum_is_recorded_and_then_checked(web: Any, target: Path, events: list[progress.Event]):
    get(web, target, None)
    assert "no SHA-256 is known, so this download's is recorded" in [e.text for e in events if e.text][0]
    recorded = target.parent / "file.txt.sha256"
    assert recorded.read_text().strip() == RIGHT
    get(web, target, None)
    target.write_bytes(b"other")
    with pytest.raises(CorpusError, match="does not have the expected SHA-256") as caught:
        get(web, target, None)
    web.files["/file"] = b"changed at home"
    with pytest.raises(CorpusError, match="does not have the expected SHA-256") as caught:
        get(web, target, None)
    assert f"delete {recorded}" in str(caught.value.fix)
    recorded.unlink()
    assert get(web, target, None).read_bytes() == b"changed at home"


def test_a_file_put_by_hand_needs_no_connection(cache: Path):
    cache.mkdir()
    (cache / "file.txt").write_bytes(DATA)
    nowhere = "http://127.0.0.1:9/file"
    assert fetch(nowhere, cache / "file.txt", RIGHT).read_bytes() == DATA
    assert fetch(nowhere, cache / "file.txt").read_bytes() == DATA
    assert (cache / "file.txt.sha256").read_text().strip() == RIGHT


def test_a_broken_connection_is_taken_up_where_it_broke(web: Any, target: Path, events: list[progress.Event]):
    web.cuts = [300_000, 0, 200_000]
    get(web, target)
    assert target.read_bytes() == DATA
    assert [r for _, r in web.requests] == [None, "bytes=300000-", "bytes=300000-", "bytes=500000-"]
    assert web.validators == [None, '"one"', '"one"', '"one"']
    assert "trying again in 0.001 s" in next(e.text for e in events if e.text)
    again = [e for e in events if e.task and not e.finished and e.done == 500_000]
    assert again
    assert {e.total for e in events if e.task} == {len(DATA)}


def test_an_interrupted_download_is_taken_up_by_the_next_run(web: Any, target: Path):
    target.parent.mkdir()
    (target.parent / "file.txt.part").write_bytes(DATA[:400_000])
    get(web, target)
    assert target.read_bytes() == DATA
    assert web.requests == [("/file", "bytes=400000-")]


def test_a_server_without_ranges_sends_all_again(web: Any, target: Path):
    web.ranges = False
    web.cuts = [300_000]
    get(web, target)
    assert target.read_bytes() == DATA
    assert [r for _, r in web.requests] == [None, "bytes=300000-"]


def test_two_versions_are_never_joined(web: Any, target: Path):
    web.cuts = [300_000]

    def change() -> None:
        if len(web.requests) == 2:
            web.files["/file"], web.tag = DATA[::-1], '"two"'

    web.before = change
    get(web, target, None)
    assert target.read_bytes() == DATA[::-1]


def test_a_weak_tag_is_no_proof(web: Any, target: Path):
    web.tag = 'W/"one"'
    web.cuts = [300_000]
    get(web, target)
    assert [r for _, r in web.requests] == [None, "bytes=300000-"]
    assert web.validators == [None, None]
    assert names(target.parent) == {"file.txt"}


def test_another_part_than_asked_for_is_refused(web: Any, target: Path):
    web.cuts = [300_000]
    web.wrong_part = True
    get(web, target)
    assert target.read_bytes() == DATA
    assert [r for _, r in web.requests] == [None, "bytes=300000-", None]


def test_a_part_that_is_the_whole_file_is_taken(web: Any, target: Path):
    target.parent.mkdir()
    (target.parent / "file.txt.part").write_bytes(DATA)
    get(web, target)
    assert target.read_bytes() == DATA
    assert web.requests == [("/file", f"bytes={len(DATA)}-")]


def test_a_part_that_is_too_long_begins_again(web: Any, target: Path):
    target.parent.mkdir()
    (target.parent / "file.txt.part").write_bytes(DATA + b"more")
    get(web, target)
    assert target.read_bytes() == DATA
    assert [r for _, r in web.requests] == [f"bytes={len(DATA) + 4}-", None]


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_busy_server_is_asked_again(web: Any, target: Path, status: int):
    web.statuses = [status, status]
    get(web, target)
    assert len(web.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_refusal_is_final_and_says_where_the_file_goes(web: Any, target: Path, status: int):
    web.statuses = [status]
    with pytest.raises(CorpusError, match=f"cannot be fetched: HTTP {status}") as caught:
        get(web, target)
    assert len(web.requests) == 1
    assert caught.value.fix == f"Without a connection, put the file at {target} yourself."


def test_a_server_that_never_recovers(web: Any, target: Path, monkeypatch: pytest.MonkeyPatch):
    web.statuses = [503] * 9
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    with pytest.raises(CorpusError, match="cannot be fetched: HTTP Error 503"):
        fetch(f"{web.url}/file", target, RIGHT)
    assert len(web.requests) == 4
    assert pauses == [1.0, 2.0, 4.0]


def test_bytes_that_come_do_not_count_as_failure(web: Any, target: Path):
    web.cuts = [100_000] * 9
    get(web, target)
    assert target.read_bytes() == DATA
    assert len(web.requests) == 10


def test_a_connection_that_breaks_without_a_byte_is_given_up(web: Any, target: Path):
    web.cuts = [100_000, 0, 0, 0, 0, 0, 0]
    with pytest.raises(CorpusError, match="connection closed after 100000 of 1000000 bytes"):
        get(web, target)
    assert (target.parent / "file.txt.part").stat().st_size == 100_000


def test_offline_says_where_the_file_goes(cache: Path):
    with pytest.raises(CorpusError, match="Connection refused") as caught:
        fetch("http://127.0.0.1:9/file", cache / "file.txt", pause=0.001)
    assert caught.value.fix == f"Without a connection, put the file at {cache / 'file.txt'} yourself."


def test_what_is_no_web_address(cache: Path):
    with pytest.raises(CorpusError, match="is not an http or https URL"):
        fetch("file:///etc/passwd", cache / "file.txt")
    assert not (cache / "file.txt").exists()


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/file", "data:text/plain,x"])
def test_a_redirect_to_what_is_no_web_address(web: Any, target: Path, address: str):
    web.redirect = address
    with pytest.raises(CorpusError, match="cannot be fetched: HTTP 302"):
        get(web, target)
    assert not target.exists()


def test_a_redirect_from_https_to_http_is_refused():
    request = urllib.request.Request("https://example.org/file")
    with pytest.raises(urllib.error.HTTPError, match="redirects to http://example"):
        module._Redirects().redirect_request(request, None, 302, "", {}, "http://example.org/file")
    assert module._Redirects().redirect_request(request, None, 302, "", {}, "https://example.org/b") is not None


@pytest.mark.parametrize("length", ["-1", "1e3", "+10", "0x10", "9" * 400, "9" * 5000, "ten", "1,0"])
def test_an_invalid_length(web: Any, target: Path, length: str):
    web.length = length
    with pytest.raises(CorpusError, match="the server sent an invalid Content-Length") as caught:
        get(web, target)
    assert len(str(caught.value)) < 300
    assert names(target.parent) - {"file.txt.lock", "file.txt.part.etag"} == set()


@pytest.mark.parametrize("sized", [True, False])
def test_a_file_that_is_too_large_is_not_fetched(web: Any, target: Path, sized: bool):
    web.sized = sized
    with pytest.raises(CorpusError, match=r"too large to fetch .*at most 300,000\)\. Raise corpus\.max_download_bytes"):
        fetch(f"{web.url}/file", target, RIGHT, max_bytes=300_000, pause=0.001)
    assert not [p for p in target.parent.iterdir() if p.name.endswith((".part", ".txt"))]
    assert fetch(f"{web.url}/file", target, RIGHT, max_bytes=len(DATA), pause=0.001).read_bytes() == DATA


def test_an_endless_file_with_an_absurd_length(web: Any, target: Path):
    web.length = "9" * 18
    with pytest.raises(CorpusError, match="is too large to fetch"):
        get(web, target)


class _Full:
    """A file on a full disk."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> "_Full":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, _: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_not_tried_again(web: Any, target: Path, monkeypatch: pytest.MonkeyPatch):
    real = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = real(path, mode, *args, **kwargs)
        return _Full(file) if path.suffix == ".part" else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(StorageError, match="no space left on the disk.*set FIRSTLIGHT_CACHE"):
        get(web, target)
    assert len(web.requests) == 1


def test_a_cache_that_is_a_file(web: Any, cache: Path):
    cache.write_text("not a folder")
    with pytest.raises(StorageError, match="FIRSTLIGHT_CACHE"):
        get(web, cache / "file.txt")
    assert web.requests == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_serves_what_it_has(web: Any, target: Path):
    target.parent.mkdir()
    target.write_bytes(DATA)
    target.parent.chmod(0o500)
    try:
        assert get(web, target) == target
        assert get(web, target, None) == target
    finally:
        target.parent.chmod(0o700)


def test_a_file_that_is_there_is_only_read(web: Any, target: Path, monkeypatch: pytest.MonkeyPatch, events: list):
    target.parent.mkdir()
    target.write_bytes(DATA)

    def refuse(*_: object) -> None:
        raise StorageError("the file system is read-only", where=target)

    monkeypatch.setattr(module, "write_atomic", refuse)
    monkeypatch.setattr(module, "FileLock", refuse)
    assert get(web, target) == get(web, target, None) == target
    assert "the SHA-256 is not recorded" in events[-1].text


def test_two_threads_fetch_once(web: Any, target: Path, events: list[progress.Event]):
    web.before = lambda: time.sleep(0.3)
    threads = [threading.Thread(target=get, args=(web, target)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == DATA
    assert web.requests == [("/file", None)]
    assert "another process is fetching file.txt; waiting for it" in [e.text for e in events]


def another_process(web: Any, target: Path) -> subprocess.Popen[bytes]:
    code = "import pathlib, sys, firstlight.corpus as c; c.fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    return subprocess.Popen([sys.executable, "-c", code, f"{web.url}/file", str(target)])


def test_two_processes_fetch_once(web: Any, target: Path):
    web.before = lambda: time.sleep(0.5)
    both = [another_process(web, target) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert target.read_bytes() == DATA
    assert web.requests == [("/file", None)]


def test_a_killed_process_leaves_no_lock_behind(web: Any, target: Path):
    holding = threading.Event()
    web.before = lambda: holding.wait(30) if len(web.requests) == 1 else None
    process = another_process(web, target)
    while not web.requests:
        time.sleep(0.01)
    process.kill()
    process.wait()
    holding.set()
    get(web, target)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"FIRSTLIGHT_CACHE": "/a/b"}, "/a/b"),
        ({"FIRSTLIGHT_CACHE": "~/b"}, "/home/me/b"),
        ({"FIRSTLIGHT_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/firstlight"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/firstlight"),
        ({}, "/home/me/.cache/firstlight"),
    ],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str):
    for name in ("FIRSTLIGHT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(folder)


def test_the_sum_is_computed_once_a_run(web: Any, target: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    real = module.sha256
    monkeypatch.setattr(module, "sha256", lambda path: (calls.append(path.name), real(path))[1])
    get(web, target)
    assert calls == ["file.txt.part"]
    get(web, target)
    assert calls == ["file.txt.part", "file.txt"]
    shutil.rmtree(target.parent)
