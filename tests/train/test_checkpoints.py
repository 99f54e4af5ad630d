"""Checkpoints: whole or absent, pruned, pointed at, set aside when damaged, written off the critical path."""

import errno
import json
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from small_run import CPU, T, differing, held, make_state, write_model

from firstlight import parallel
from firstlight.errors import CheckpointError, StorageError
from firstlight.files import verify_manifest
from firstlight.model import GPT
from firstlight.optim import AdamW, Muon
from firstlight.progress import Event
from firstlight.train import (
    CheckpointManager,
    LossModule,
    Snapshot,
    TrainState,
    read_trainer_state,
    restore,
    snapshot,
    train_step,
)
from firstlight.types import Batch

BOTH = pytest.mark.parametrize("optimizer", [AdamW(lr=0.01), Muon(lr=0.02)], ids=lambda s: s.name)


def train(state: TrainState, steps: int, optimizer: AdamW | Muon, first: int = 0) -> list[float]:
    losses = []
    for seed in range(first, first + steps):
        ids = torch.randint(0, 12, (4, T + 1), generator=torch.Generator().manual_seed(seed))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        losses.append(train_step(state, LossModule(state.model), batch, 1.0, optimizer, CPU).loss)
        state.counters.step += 1
    return losses


def snap_of(state: TrainState, step: int | None = None, *, best_step: int | None = None) -> Snapshot:
    state.counters.step = state.counters.step if step is None else step
    state.counters.best_step = best_step
    snap = snapshot(state, CPU, {"tokenizer": "x"})
    assert snap is not None
    return snap


def checkpoints(run: Path, keep_last: int = 2, write: Any = write_model) -> CheckpointManager:
    return CheckpointManager(run, write, keep_last)


def names(points: CheckpointManager) -> list[int]:
    return [int(p.name[5:]) for p in points.all()]


def warnings(events: list[Event]) -> list[str]:
    return [e.text for e in events if e.level == "warning"]


@BOTH
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_save_load_step_is_step(tmp_path: Path, optimizer: AdamW | Muon, dropout: float) -> None:
    one = make_state(optimizer, dropout=dropout, average=0.9)
    parallel.seed_everything(3)
    train(one, 3, optimizer)
    path = checkpoints(tmp_path).write(snap_of(one), best=False)
    losses = train(one, 3, optimizer, first=3)

    two = make_state(optimizer, dropout=dropout, average=0.9)
    parallel.seed_everything(99)
    train(two, 1, optimizer, first=50)
    table = restore(path, two, CPU)
    assert table["contract"] == {"tokenizer": "x"}
    assert two.counters.step == 3
    assert train(two, 3, optimizer, first=3) == losses
    assert not differing(held(one), held(two))


def test_the_loss_scale_and_its_history_go_round(tmp_path: Path) -> None:
    one = make_state()
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=3)
    train(one, 2, AdamW())
    path = checkpoints(tmp_path).write(snap_of(one), best=False)
    two = make_state()
    two.scaler = torch.amp.GradScaler("cpu", growth_interval=3)
    restore(path, two, CPU)
    assert two.scaler.get_scale() == 2.0**6
    train(two, 1, AdamW(), first=2)
    assert two.scaler.get_scale() == 2.0**7, "the third step without an overflow"


def test_random_numbers_matter_to_that_test() -> None:
    one, two = make_state(dropout=0.2), make_state(dropout=0.2)
    parallel.seed_everything(3)
    first = train(one, 1, AdamW())
    parallel.seed_everything(4)
    assert train(two, 1, AdamW()) != first


def test_a_snapshot_is_a_copy() -> None:
    state = make_state(average=0.9)
    train(state, 1, AdamW())
    snap = snap_of(state)
    before = {k: v.clone() for k, v in {**snap.weights, **snap.trainer}.items()}
    train(state, 2, AdamW())
    state.counters.losses.append(1.0)
    assert not differing(before, {**snap.weights, **snap.trainer})
    assert snap.trainer_state["counters"]["losses"] == []
    assert all(t.is_contiguous() for t in snap.weights.values())


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    path = checkpoints(tmp_path).write(snap_of(make_state(), 7), best=False)
    assert path == tmp_path / "checkpoints" / "step-00000007"
    found = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    assert found == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "trainer/optimizer.safetensors",
        "trainer/random.safetensors",
        "trainer/state.json",
    ]
    assert verify_manifest(path) == []
    assert (tmp_path / "latest").read_text() == "step-00000007\n"
    assert not (tmp_path / "best").exists()


def test_the_manifest_is_written_last_and_the_rename_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from firstlight.train import checkpoint

    seen: list[Any] = []
    real = checkpoint.write_manifest

    def spy(folder: Path, extra: dict[str, Any], **more: Any) -> Any:
        seen.append(sorted(p.name for p in folder.rglob("*") if p.is_file()))
        seen.append((tmp_path / "checkpoints" / "step-00000001").exists())
        return real(folder, extra, **more)

    monkeypatch.setattr(checkpoint, "write_manifest", spy)
    path = checkpoints(tmp_path).write(snap_of(make_state(), 1), best=False)
    files = sorted(p.name for p in path.rglob("*") if p.is_file() and p.name != "manifest.json")
    assert seen == [files, False]


@pytest.mark.parametrize("what", ["write_manifest", "save_file", "write_atomic"])
def test_a_failed_write_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    points = checkpoints(tmp_path)
    points.write(snap_of(make_state(), 1), best=False)

    def full(*args: object, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"firstlight.train.checkpoint.{what}", full)
    with pytest.raises(StorageError, match="no space left"):
        points.write(snap_of(make_state(), 2), best=False)
    monkeypatch.undo()
    assert [p.name for p in points.folder.iterdir()] == ["step-00000001"]
    assert points.read_pointer("latest") == "step-00000001"
    assert points.last_saved_step == 1


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    points, state = checkpoints(tmp_path, keep_last=2), make_state()
    kept = []
    for step in range(1, 7):
        points.write(snap_of(state, step), best=step in (2, 5))
        kept.append(names(points))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [4, 5], [5, 6]]
    assert points.read_pointer("latest") == "step-00000006"
    assert points.read_pointer("best") == "step-00000005"


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    points, state = checkpoints(tmp_path, keep_last=5), make_state()
    for step in (99_999_999, 100_000_001, 3):
        points.write(snap_of(state, step), best=False)
    (points.folder / "step-notes").mkdir()
    assert names(points) == [3, 99_999_999, 100_000_001]


def test_the_same_step_can_be_written_again(tmp_path: Path) -> None:
    points, state = checkpoints(tmp_path), make_state()
    points.write(snap_of(state, 4), best=False)
    train(state, 1, AdamW())
    path = points.write(snap_of(state, 4), best=True)
    assert verify_manifest(path) == []
    other = make_state()
    restore(path, other, CPU)
    assert not differing(held(state), held(other))
    assert [p.name for p in points.folder.iterdir()] == [path.name]


def flip(path: Path) -> None:
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(path: Path) -> None:
    file = path / "trainer" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = {
    "flipped bit": (flip, "model.safetensors: bytes differ"),
    "cut file": (cut, "optimizer.safetensors: .* bytes, expected"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json: missing"),
    "no file": (lambda path: (path / "trainer" / "state.json").unlink(), "state.json: missing"),
    "half a manifest": (lambda path: (path / "manifest.json").write_text('{"files": {'), "manifest.json: unreadable"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_one_is_set_aside_for_the_previous(tmp_path: Path, events: list[Event], damage: str) -> None:
    points, state = checkpoints(tmp_path), make_state()
    points.write(snap_of(state, 1, best_step=1), best=True)
    newest = points.write(snap_of(state, 2, best_step=2), best=True)
    spoil, words = DAMAGES[damage]
    spoil(newest)
    again = checkpoints(tmp_path)
    assert again.find_latest(CPU) == tmp_path / "checkpoints" / "step-00000001"
    assert sorted(p.name for p in points.folder.iterdir()) == ["damaged-step-00000002", "step-00000001"]
    assert (again.read_pointer("latest"), again.read_pointer("best")) == ("step-00000001", "step-00000001")
    assert again.last_saved_step == 1
    (warning,) = warnings(events)
    assert "step-00000002 is damaged" in warning
    assert "damaged-step-00000002" in warning
    assert re.search(words, warning)


def test_damaged_ones_go_like_old_ones_and_folders_of_others_stay(tmp_path: Path) -> None:
    points, state = checkpoints(tmp_path, keep_last=2), make_state()
    others = ["best", "damaged-mine", "step-00000001-backup", "step-000100-backup"]
    for name in others:
        (points.folder / name).mkdir(parents=True)
    flip(points.write(snap_of(state, 1), best=False))
    assert points.find_latest(CPU) is None
    for step in (2, 3):
        points.write(snap_of(state, step), best=False)
    left = {p.name for p in points.folder.iterdir()}
    assert left == {*others, "step-00000002", "step-00000003"}


def test_a_renamed_one_is_refused_and_stays(tmp_path: Path) -> None:
    points = checkpoints(tmp_path)
    path = points.write(snap_of(make_state(), 3), best=False)
    renamed = path.rename(path.with_name("step-00000900"))
    with pytest.raises(
        CheckpointError, match=r"step-00000900: .* is of step 3, its name says 900: rename it to step-0"
    ):
        points.find_latest(CPU)
    assert renamed.is_dir()
    renamed.rename(path)
    assert points.find_latest(CPU) == path


def test_all_damaged_is_none_at_all(tmp_path: Path, events: list[Event]) -> None:
    points, state = checkpoints(tmp_path), make_state()
    for step in (1, 2):
        flip(points.write(snap_of(state, step), best=True))
    assert points.find_latest(CPU) is None
    assert len(warnings(events)) == 2
    assert not (tmp_path / "latest").exists()
    assert not (tmp_path / "best").exists()
    assert checkpoints(tmp_path / "nothing").find_latest(CPU) is None


def test_pointers_catch_up_after_a_kill_before_they_were_written(tmp_path: Path, events: list[Event]) -> None:
    points, state = checkpoints(tmp_path), make_state()
    points.write(snap_of(state, 1, best_step=1), best=True)
    points.write(snap_of(state, 2, best_step=2), best=True)
    for name in ("latest", "best"):
        (tmp_path / name).write_text("step-00000001\n")
    assert points.find_latest(CPU) == points.folder / "step-00000002"
    assert (points.read_pointer("latest"), points.read_pointer("best")) == ("step-00000002", "step-00000002")
    assert warnings(events) == []


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    points = checkpoints(tmp_path)
    path = points.write(snap_of(make_state(), 1), best=False)
    shutil.copytree(path, points.folder / ".firstlight-part-step-00000002-999999999-abcdef01")
    path.rename(points.folder / f".firstlight-old-{path.name}-999999999-abcdef01")
    assert points.find_latest(CPU) == path
    assert [p.name for p in points.folder.iterdir()] == [path.name]


class Slow:
    """A writer that waits until it may go on."""

    def __init__(self) -> None:
        self.go, self.begun, self.calls = threading.Event(), threading.Event(), 0

    def __call__(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(20)
        write_model(folder, weights)


def test_a_save_holds_nothing_up_and_a_second_one_waits(tmp_path: Path) -> None:
    slow, state = Slow(), make_state()
    points = checkpoints(tmp_path, write=slow)
    points.save(snap_of(state, 1), best=False)
    assert slow.begun.wait(20)
    assert names(points) == [], "still being written while this thread goes on"
    second = snap_of(state, 2)
    waiting = threading.Thread(target=points.save, args=(second,), kwargs={"best": False})
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    assert slow.calls == 1
    slow.go.set()
    waiting.join(20)
    points.wait(raise_errors=True)
    assert names(points) == [1, 2]
    assert points.last_saved_step == 2


def failing(error: BaseException) -> Any:
    def write(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        raise error

    return write


REFUSALS = [
    OSError(errno.ENOSPC, "full"),
    OSError(errno.ESTALE, "stale"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=["full", "stale", "text"])
def test_a_save_that_the_disk_refused_warns_and_the_last_one_fails(
    tmp_path: Path, events: list[Event], error: BaseException
) -> None:
    points, state = checkpoints(tmp_path, write=failing(error)), make_state()
    points.save(snap_of(state, 1), best=False)
    points.save(snap_of(state, 2), best=False)  # waits for the first
    assert len(warnings(events)) == 1
    assert "training continues, with the previous one on disk" in warnings(events)[0]
    with pytest.raises(StorageError, match="checkpoints"):
        points.wait(raise_errors=True)
    points.wait(raise_errors=True)  # an error is told once
    assert points.last_saved_step is None


def test_a_bug_in_writing_is_no_warning(tmp_path: Path) -> None:
    points = checkpoints(tmp_path, write=failing(ValueError("a bug")))
    points.save(snap_of(make_state(), 1), best=False)
    with pytest.raises(ValueError, match="a bug"):
        points.wait()


def test_no_training_state_is_said(tmp_path: Path) -> None:
    path = checkpoints(tmp_path).write(snap_of(make_state(), 1), best=False)
    file = path / "trainer" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match=r"state.json: has another format \(found 99; expected 1\)\. Resume with"):
        read_trainer_state(path)
    for text in ("{", "[1]", "[" * 200_000, "9" * 5000):
        file.write_text(text)
        with pytest.raises(CheckpointError, match="state.json: is not (valid|a) JSON"):
            read_trainer_state(path)
    file.unlink()
    with pytest.raises(CheckpointError, match="has no training state.*--from"):
        read_trainer_state(path)


def test_a_checkpoint_of_another_shape_or_optimiser_is_refused(tmp_path: Path) -> None:
    path = checkpoints(tmp_path).write(snap_of(make_state(), 1), best=False)
    wide = make_state()
    wide.model = GPT(wide.model.config.model_copy(update={"vocab_size": 13}))
    with pytest.raises(CheckpointError, match="wte.weight: weight shape does not match.*12, 16.*13, 16"):
        restore(path, wide, CPU)
    state = make_state()
    train(state, 1, AdamW())
    path = checkpoints(tmp_path).write(snap_of(state, 2), best=False)
    with pytest.raises(CheckpointError, match="another optimizer"):
        restore(path, make_state(Muon()), CPU)
    (path / "trainer" / "random.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore(path, make_state(), CPU)


def test_another_number_of_processes_is_said(tmp_path: Path, events: list[Event]) -> None:
    path = checkpoints(tmp_path).write(snap_of(make_state(), 1), best=False)
    file = path / "trainer" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "world_size": 4}))
    parallel.seed_everything(8)
    expected = torch.rand(1)
    state = make_state()
    parallel.seed_everything(8)
    restore(path, state, CPU)
    assert torch.equal(torch.rand(1), expected), "random numbers stay this process's own"
    assert "the number of processes was 4 and is now 1" in warnings(events)[0]


def test_a_rollback_goes_behind_what_was_saved_amid_a_spike(tmp_path: Path, events: list[Event]) -> None:
    points, state = checkpoints(tmp_path, keep_last=1), make_state()
    points.write(snap_of(state, 1), best=False)
    points.write(snap_of(state, 2, best_step=2), best=True)
    state.counters.spike_steps = 2
    points.write(snap_of(state, 3, best_step=3), best=True)
    assert names(points) == [2, 3], "what a rollback needs is not dropped for it"
    assert points.find_latest(CPU) == points.folder / "step-00000003", "a resume goes on from it"
    assert points.find_latest(CPU, before_spike=True) == points.folder / "step-00000002"
    assert names(points) == [2]
    assert (points.read_pointer("latest"), points.read_pointer("best")) == ("step-00000002", "step-00000002")
    assert warnings(events) == []


def test_only_the_first_process_looks_and_the_others_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = checkpoints(tmp_path)
    newest = points.write(snap_of(make_state(), 2), best=False)
    flip(newest)
    monkeypatch.setattr(
        parallel, "broadcast_object", lambda value, device_context: "step-00000001" if device_context.rank else value
    )
    second = replace(CPU, rank=1, world_size=2)
    assert points.find_latest(second) == points.folder / "step-00000001"
    assert newest.is_dir(), "it moves nothing"
    monkeypatch.setattr(parallel, "all_gather", lambda value, device_context: [value, value])
    assert snapshot(make_state(), second, {}) is None
