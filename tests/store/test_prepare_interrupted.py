"""A preparation that was interrupted anywhere goes on, and writes the bytes of one that was not."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_text import Bytes, Texts, make

from firstlight import progress
from firstlight.errors import CorpusError, StorageError, StoreError, UsageError
from firstlight.progress import Event
from firstlight.store import TokenStore, preparation_folder, prepare, verify_store
from firstlight.store.preparation import Preparation

MODULE = sys.modules["firstlight.store.prepare"]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(MODULE, "_SAVE_SECONDS", -1.0)
    monkeypatch.setattr(MODULE, "_BATCH_CHARACTERS", 300)
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def events() -> Iterator[list[Event]]:
    found: list[Event] = []
    with progress.listen(found.append):
        yield found


class Stopping(Texts):
    """Texts that stop the process at a document."""

    stop_at: int | None = None
    error: BaseException = KeyboardInterrupt()

    def documents(self) -> Iterator[Any]:
        for n, document in enumerate(super().documents()):
            if n == self.stop_at:
                raise self.error
            yield document


def sources() -> list[Stopping]:
    """Many documents, one, and few long ones in pieces: the ends of the last two move to the validation split."""
    rng = random.Random(3)

    def text(n: int) -> str:
        return "".join(rng.choice("abc de") for _ in range(n))

    return [
        Stopping([text(rng.randrange(5, 90)) for _ in range(60)], "many"),
        Stopping([[text(100) for _ in range(12)]], "one"),
        Stopping([[text(150), text(80)], text(400), [text(90)] * 4], "few"),
        Stopping([text(40) for _ in range(30)], "last"),
    ]


def contents(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    make(tmp_path / "whole", *sources())
    return contents(tmp_path / "whole")


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", range(4))
def test_interrupted_at_any_document_the_store_is_the_same(
    tmp_path: Path, whole: dict[str, bytes], source: int, step: int
) -> None:
    resumed = 0
    for stop_at in range(2, 60, step):
        out = tmp_path / f"s{stop_at}"
        given = sources()
        given[source].stop_at = stop_at
        try:
            make(out, *given)
        except KeyboardInterrupt:
            resumed += preparation_folder(out).is_dir()
            again = sources()
            make(out, *again)
            finished = [s.name for s in again[:source]]
            assert [s.name for s in again if not s.read] == finished
        assert contents(out) == whole
        assert verify_store(out) == []
        assert not preparation_folder(out).exists()
    assert resumed >= 1 or step > 1


class StopAtState:
    """Stops the process before or after a state is saved, or between its segment and itself."""

    def __init__(self, when: str, stop_at: int) -> None:
        self._when, self._stop_at, self._calls = when, stop_at, 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        save, write = Preparation.save, sys.modules["firstlight.store.preparation"].write_atomic

        def save_and_stop(preparation: Preparation, *arguments: Any) -> None:
            self._calls += 1
            self._stop("before")
            save(preparation, *arguments)
            self._stop("after")

        def write_or_stop(path: Path, content: Any) -> None:
            if path.name == "state.json":
                self._stop("between")
            write(path, content)

        patch.setattr(Preparation, "save", save_and_stop)
        patch.setattr("firstlight.store.preparation.write_atomic", write_or_stop)

    def _stop(self, when: str) -> None:
        if self._calls == self._stop_at and self._when == when:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_interrupted_around_any_saved_state_the_store_is_the_same(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, when: str, step: int
) -> None:
    for stop_at in range(1, 40, step):
        out = tmp_path / f"s{stop_at}"
        with monkeypatch.context() as patch:
            StopAtState(when, stop_at).install(patch)
            with contextlib.suppress(KeyboardInterrupt):
                make(out, *sources())
        make(out, *sources())
        assert contents(out) == whole


def test_interrupted_again_and_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    for source, stop_at in ((0, 9), (0, 30), (0, 31), (1, 5), (1, 11), (2, 2), (2, 3), (3, 1), (3, 29)):
        given = sources()
        given[source].stop_at = stop_at
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "s", *given)
    make(tmp_path / "s", *sources())
    assert contents(tmp_path / "s") == whole


def interrupt(out: Path) -> None:
    given = sources()
    given[3].stop_at = 20
    with pytest.raises(KeyboardInterrupt):
        make(out, *given)
    assert preparation_folder(out).is_dir()


def test_other_inputs_start_again(tmp_path: Path, whole: dict[str, bytes], events: list[Event]) -> None:
    interrupt(tmp_path / "s")
    events.clear()
    make(tmp_path / "s", *sources(), seed=2)
    assert sum("made from other inputs and is started again" in e.text for e in events) == 1
    make(tmp_path / "t", *sources(), seed=2)
    assert contents(tmp_path / "s") == contents(tmp_path / "t")


@pytest.mark.parametrize("damage", ["state", "segment", "ids"])
def test_a_damaged_preparation_starts_again(
    tmp_path: Path, whole: dict[str, bytes], events: list[Event], damage: str
) -> None:
    interrupt(tmp_path / "s")
    folder = preparation_folder(tmp_path / "s")
    path = {
        "state": folder / "progress" / "state.json",
        "segment": next((folder / "progress").glob("*.safetensors")),
        "ids": folder / "train.bin",
    }[damage]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    events.clear()
    make(tmp_path / "s", *sources())
    assert sum("cannot be read and is started again" in e.text for e in events) == 1
    assert contents(tmp_path / "s") == whole


def test_what_is_whole_but_for_its_name_is_only_renamed(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "publish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "s", *sources())
    again = sources()
    make(tmp_path / "s", *again)
    assert [s.read for s in again] == [0, 0, 0, 0]
    assert contents(tmp_path / "s") == whole


@pytest.mark.parametrize(("error", "kept"), [(StorageError("full"), True), (CorpusError("bad row"), False)])
def test_which_errors_keep_what_is_prepared(tmp_path: Path, error: Exception, kept: bool) -> None:
    given = sources()
    given[3].stop_at, given[3].error = 20, error
    with pytest.raises(type(error)):
        make(tmp_path / "s", *given)
    assert preparation_folder(tmp_path / "s").exists() is kept


def test_a_folder_of_somebody_else_stays(tmp_path: Path) -> None:
    folder = preparation_folder(tmp_path / "s")
    folder.mkdir()
    (folder / "thesis").write_text("precious")
    with pytest.raises(StoreError, match="not from an interrupted preparation"):
        make(tmp_path / "s", *sources())
    assert (folder / "thesis").read_text() == "precious"


def test_a_folder_without_a_manifest_and_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis").write_text("precious")
    with pytest.raises(StoreError, match="thesis"):
        make(tmp_path / "s", *sources())
    assert (tmp_path / "s" / "thesis").read_text() == "precious"


def test_two_processes_do_not_prepare_one_store(tmp_path: Path) -> None:
    with Preparation(tmp_path / "s", {}), pytest.raises(UsageError, match="another process"):
        make(tmp_path / "s", *sources())


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
import test_prepare_interrupted as t
from made_text import make
t.MODULE._SAVE_SECONDS, t.MODULE._BATCH_CHARACTERS = -1.0, 300
class Killing(KeyboardInterrupt): pass
given = t.sources()
documents = given[2].documents
def killing():
    for n, document in enumerate(documents()):
        if n == 5:
            import time; time.sleep(0.3)  # what was read before is written
            os.kill(os.getpid(), signal.SIGKILL)
        yield document
given[2].documents = killing
make(Path(sys.argv[1]), *given)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed(tmp_path: Path, whole: dict[str, bytes]) -> None:
    arguments = [sys.executable, "-c", _KILLED, tmp_path / "s", str(Path(__file__).parent)]
    assert subprocess.run(arguments, timeout=60).returncode == -signal.SIGKILL
    state = json.loads((preparation_folder(tmp_path / "s") / "progress" / "state.json").read_text())
    assert state["position"][0] == 2
    again = sources()
    store: TokenStore = prepare(tmp_path / "s", again, Bytes(), make_settings(), seed=1)
    assert [bool(s.read) for s in again] == [False, False, True, True]
    assert contents(store.directory) == whole


def make_settings() -> Any:
    from firstlight.store import DataSettings

    return DataSettings()


@pytest.mark.skipif(os.name != "posix", reason="flock")
def test_a_file_system_without_locks_is_said(
    tmp_path: Path, whole: dict[str, bytes], events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    make(tmp_path / "s", *sources())
    assert contents(tmp_path / "s") == whole
    assert any("the file system has no locks" in event.text for event in events)


def test_temporary_files_of_a_killed_process_are_not_in_the_store(tmp_path: Path, whole: dict[str, bytes]) -> None:
    out, given = tmp_path / "s", sources()
    given[3].stop_at = 20
    with pytest.raises(KeyboardInterrupt):
        make(out, *given)
    (preparation_folder(out) / ".firstlight-part-documents.safetensors-99999999-01234567").write_bytes(b"cut")
    make(out, *sources())
    assert contents(out) == whole


@pytest.mark.parametrize("stopped", [1, 3, 4])
def test_one_with_a_validation_text_goes_on_as_well(tmp_path: Path, stopped: int) -> None:
    def texts() -> list[Stopping]:
        return [*sources(), Stopping([["vw " * 50, "vx " * 60], "vy " * 90, "vz"], "valid")]

    make(tmp_path / "whole", *texts()[:-1], valid=texts()[-1:])
    stopping = texts()
    stopping[stopped].stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "again", *stopping[:-1], valid=stopping[-1:])
    store = make(tmp_path / "again", *texts()[:-1], valid=texts()[-1:])
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert store.valid.n_documents == 3
