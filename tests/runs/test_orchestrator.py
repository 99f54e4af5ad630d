"""The orchestrator around a third recipe: resume, limits, changed settings and code, failures, averaged weights."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_recipe import CopyRecipe, CopyResult, no_report
from safetensors.torch import load_file

from firstlight import progress
from firstlight.config import parse_overrides
from firstlight.errors import (
    CheckpointError,
    CompatibilityError,
    ConfigError,
    Interrupted,
    StorageError,
    TrainingError,
    UsageError,
)
from firstlight.report import write_run_report
from firstlight.runs import Layers, RunDirectory, resolve_request, run_recipe
from firstlight.runs import orchestrator as module

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


COMMON = [
    "train.eval_every=4",
    "train.checkpoint_every=5",
    "train.log_every=1",
    "train.sample_every=0",
    "train.trackers=[]",
    "optim.lr=0.01",
    "hardware.device=cpu",
    "hardware.compile=off",
]


def run(
    path: Path,
    *overrides: str,
    resume: bool = False,
    restart: bool = False,
    recipe: CopyRecipe | None = None,
    write_report: Callable[[Path], object] = no_report,
) -> CopyResult:
    recipe = recipe or CopyRecipe()
    request = resolve_request(
        recipe,
        RunDirectory(path),
        Layers(arguments=parse_overrides([*COMMON, *overrides])),
        resume=resume,
        restart=restart,
        check=lambda settings: None,
    )
    return run_recipe(recipe, request, process_start=time.perf_counter(), write_report=write_report)


def weights(path: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(path / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def events(path: Path) -> list[tuple[str, str]]:
    lines = (path / "events.jsonl").read_text().splitlines() if (path / "events.jsonl").is_file() else []
    return [(e["kind"], e["text"]) for e in map(json.loads, lines)]


def state(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text())


def test_a_stopped_and_resumed_run_equals_one_without_a_stop(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "train.steps=12")
    stopped = run(tmp_path / "parts", "train.steps=12", "train.stop_after=7")
    assert (stopped.finished, stopped.step) == (False, 7)
    assert state(tmp_path / "parts")["status"] == "stopped"
    result = run(tmp_path / "parts", "train.stop_after=0", resume=True)
    assert (result.finished, result.step, result.valid_loss) == (True, 12, whole.valid_loss)
    one, two = weights(tmp_path / "whole", 12), weights(tmp_path / "parts", 12)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert events(tmp_path / "parts") == [("resume", "resumed from step-00000007")]


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "r"
    run(path, "train.steps=6", "train.stop_after=2")
    assert RunDirectory(path).read_settings()["train"]["stop_after"] == 0
    assert run(path, "train.stop_after=2", resume=True).step == 2, "it is there already"
    assert run(path, "train.stop_after=4", resume=True).step == 4
    before = (path / "run.toml").read_bytes()
    with pytest.raises(UsageError, match=r"train.stop_after: the run is beyond this step already .*found 3 at step 4"):
        run(path, "train.stop_after=3", resume=True)
    assert (path / "run.toml").read_bytes() == before
    text = before.decode().replace("stop_after = 0", "stop_after = 4")  # as it was before it was cleared
    (path / "run.toml").write_text(text)
    result = run(path, resume=True)
    assert (result.finished, result.step) == (True, 6)


@pytest.mark.parametrize(
    ("first", "limit"),
    [
        ("train.steps=5", "train.steps=3"),
        ("train.steps=5", "train.epochs=0.03"),
        ("train.steps=5", "train.tokens=132"),
        ("train.minutes=1e-9", "train.minutes=2e-9"),
    ],
)
def test_a_limit_that_the_run_is_beyond_is_refused(tmp_path: Path, first: str, limit: str) -> None:
    path, key = tmp_path / "r", limit.partition("=")[0]
    run(path, first)
    before = (path / "run.toml").read_bytes()
    with pytest.raises(UsageError, match=rf"{key}: the run has already trained for longer than that \(found .* at "):
        run(path, limit, resume=True)
    assert (path / "run.toml").read_bytes() == before


def test_a_stopped_run_can_be_ended_where_it_is(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=9", "train.stop_after=3")
    result = run(tmp_path / "r", "train.steps=3", resume=True)
    assert (result.finished, result.step) == (True, 3)


def test_every_auto_is_resolved_and_written(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=2", "optim.name=muon", "hardware.precision=auto", "hardware.threads=auto")
    settings = RunDirectory(tmp_path / "r").read_settings()
    assert settings["train"]["micro_batch"] == 4
    assert settings["hardware"]["precision"] in ("fp32", "bf16")
    assert isinstance(settings["hardware"]["threads"], int)
    assert settings["optim"]["ns_precision"] in ("fp32", "bf16")


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path / "r", "train.steps=3")
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    recipe = CopyRecipe()
    (tmp_path / "r").rename(tmp_path / "moved")
    again = run(tmp_path / "moved", resume=True, recipe=recipe)
    assert recipe.prepared == [], "nothing is prepared"
    assert (again.step, again.valid_loss, again.run) == (first.step, first.valid_loss, tmp_path / "moved")
    assert (tmp_path / "moved" / "metrics.jsonl").read_bytes() == before
    assert run(tmp_path / "moved", "train.steps=5", resume=True, recipe=recipe).step == 5
    assert recipe.prepared == [True]


def test_an_existing_run_needs_resume_and_the_same_kind(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=2")
    with pytest.raises(CompatibilityError, match="already holds a run.*--resume"):
        run(tmp_path / "r")
    other = CopyRecipe()
    other.kind = "paint"
    with pytest.raises(UsageError, match="holds a copy run.*expected a paint run"):
        run(tmp_path / "r", resume=True, recipe=other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match="is not a run directory"):
        run(tmp_path / "mine")


def test_a_resume_changes_only_what_it_may(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=2")
    with pytest.raises(
        CompatibilityError, match=r"cannot change these settings.*optim\.eps = 0\.5 \(the run has 1e-08\)"
    ):
        run(tmp_path / "r", "optim.eps=0.5", resume=True)
    with pytest.raises(ConfigError, match="Did you mean train.steps"):
        run(tmp_path / "r", "train.stepz=9", resume=True)
    with pytest.raises(CompatibilityError, match="holds a run on other data.*run.source = numbers"):
        run(tmp_path / "r", "run.source=letters", resume=True)


def test_other_artifacts_are_refused_before_anything_is_changed(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=4", "train.stop_after=2")
    before = (tmp_path / "r" / "contract.json").read_bytes()
    with pytest.raises(CompatibilityError, match="was trained with other numbers.*found numbers; expected letters"):
        run(tmp_path / "r", "train.stop_after=0", resume=True, recipe=CopyRecipe(store="letters"))
    assert (tmp_path / "r" / "contract.json").read_bytes() == before


def test_a_limit_that_cannot_help_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=3")
    with pytest.raises(UsageError, match=r"already reached train\.steps.*train\.tokens.*Raise that limit too"):
        run(tmp_path / "r", "train.tokens=100000", resume=True)


def test_changed_code_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "r", "train.steps=4", "train.stop_after=2")
    monkeypatch.setattr(module, "code_hash", lambda *packages: "another")
    run(tmp_path / "r", "train.stop_after=0", resume=True)
    assert [kind for kind, _ in events(tmp_path / "r")] == ["resume", "code"]


def test_a_failure_leaves_a_state_and_a_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the evaluation is broken"):
        run(tmp_path / "r", "train.steps=8", recipe=CopyRecipe(fail_at=4), write_report=write_run_report)
    failed = state(tmp_path / "r")
    assert (failed["status"], failed["step"], failed["kind"]) == ("failed", 4, "copy")
    assert "the evaluation is broken" in failed["stopped_by"]
    assert "the evaluation is broken" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert run(tmp_path / "r", resume=True).step == 8


def test_a_full_disk_does_not_hide_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: RunDirectory, **state: Any) -> None:
        if state["status"] not in ("preparing", "running"):
            raise StorageError("no space left on the disk", where=self.state_file)

    def broken_report(path: Path) -> None:
        raise RuntimeError("the report is broken too")

    monkeypatch.setattr(RunDirectory, "write_state", full)
    with pytest.raises(ValueError, match="the evaluation is broken"):
        run(tmp_path / "r", "train.steps=8", recipe=CopyRecipe(fail_at=4), write_report=broken_report)


def test_averaged_weights_are_exported(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=6", "train.ema_decay=0.5")
    averaged, last = load_file(tmp_path / "r" / "average" / "model.safetensors"), weights(tmp_path / "r", 6)
    assert averaged.keys() == last.keys()
    assert any(not torch.equal(averaged[k], last[k]) for k in last)


def test_two_processes_cannot_hold_one_run(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "r")
    assert not directory.is_locked()
    with directory.lock():
        assert directory.is_locked()
        with pytest.raises(UsageError, match="in use by another process"):
            run(tmp_path / "r")
    assert not directory.path.exists(), "a run that wrote nothing leaves nothing"


@pytest.mark.parametrize("result", [None, [], {}, {"step": 3}, {"step": "three", "seconds": "long"}])
def test_a_damaged_result_of_a_finished_run_is_made_again(tmp_path: Path, result: Any) -> None:
    first = run(tmp_path / "r", "train.steps=3")
    RunDirectory(tmp_path / "r").write_state(kind="copy", status="finished", result=result)
    again = run(tmp_path / "r", resume=True)
    assert (again.step, again.valid_loss, again.stopped_by) == (3, first.valid_loss, "steps")
    assert state(tmp_path / "r")["result"]["step"] == 3


def test_a_run_writes_nothing_of_a_tracker_before_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_settings", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "r", "train.steps=3", 'train.trackers=["tensorboard"]')
    assert not RunDirectory(tmp_path / "r").holds_other_files()
    assert run(tmp_path / "r", "train.steps=3", resume=True).step == 3


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def lose_all_checkpoints(path: Path) -> None:
    shutil.rmtree(path / "checkpoints")


def damage_all_checkpoints(path: Path) -> None:
    for file in path.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"\x00\x01")


def lose_checkpoints_and_pointers(path: Path) -> None:
    lose_all_checkpoints(path)
    (path / "latest").unlink()


@pytest.mark.parametrize("lose", [lose_all_checkpoints, damage_all_checkpoints, lose_checkpoints_and_pointers])
def test_a_run_that_lost_its_checkpoints_is_not_started_again_unasked(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "r"
    run(path, "train.steps=12", "train.stop_after=7")
    last = {name: tensor.clone() for name, tensor in weights(path, 7).items()}  # not mapped from the file
    lose(path)
    logged = (path / "metrics.jsonl").read_bytes()
    for _ in range(2):  # the first one renames damaged checkpoints
        with pytest.raises(CheckpointError, match="cannot be resumed.*--restart"):
            run(path, "train.stop_after=0", resume=True)
    assert (path / "metrics.jsonl").read_bytes() == logged

    result = run(path, "train.stop_after=7", restart=True)
    assert result.step == 7
    assert all(torch.equal(last[k], v) for k, v in weights(path, 7).items())
    assert (path / "before-restart-1" / "metrics.jsonl").read_bytes() == logged
    assert json.loads((path / "before-restart-1" / "state.json").read_text())["step"] == 7
    assert run(path, "train.stop_after=0", resume=True).step == 12
    assert run(path, restart=True).step == 12, "a finished run may start again"
    assert {p.name for p in path.glob("before-*")} == {"before-restart-1", "before-restart-2"}


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with pytest.raises(ValueError, match="broken"):
        run(path, "train.steps=8", recipe=CopyRecipe(fail_at=4))
    RunDirectory(path).write_state(kind="copy", status="running", step=0)  # as a kill leaves it
    assert run(path, resume=True).step == 8
    assert ("resume", "no checkpoint had been saved: starting again at step 0") in events(path)
    assert steps(path)[:3] == [0, 1, 2]


@pytest.mark.parametrize(("key", "old", "new"), [("seed", "1", "2"), ("eps", "1e-08", "1e-06")])
def test_a_setting_edited_in_run_toml_is_found(tmp_path: Path, key: str, old: str, new: str) -> None:
    path = tmp_path / "r"
    run(path, "train.steps=8", "train.stop_after=3")
    file = path / "run.toml"
    text, count = re.subn(rf"(?m)^{key} = {re.escape(old)}$", f"{key} = {new}", file.read_text())
    assert count == 1
    file.write_text(text)
    recipe = CopyRecipe()
    request = resolve_request(
        recipe,
        RunDirectory(path),
        Layers(arguments=parse_overrides(["train.stop_after=0"])),
        resume=True,
        check=lambda _: None,
    )
    with pytest.raises(CompatibilityError, match=rf"{key} = .*\(trained with .*Set them back in run.toml"):
        run_recipe(recipe, request, process_start=time.perf_counter(), write_report=no_report)


def test_a_checkpoint_of_a_run_with_other_settings_is_found(tmp_path: Path) -> None:
    common = ["train.steps=8", "train.stop_after=3"]
    run(tmp_path / "one", *common)
    run(tmp_path / "two", *common, "optim.weight_decay=0.5")
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "two" / "checkpoints", tmp_path / "one" / "checkpoints")
    with pytest.raises(CompatibilityError, match=r"optim.weight_decay = .*\(trained with 0.5\)"):
        run(tmp_path / "one", "train.stop_after=0", resume=True)


def test_a_kill_after_the_last_save_does_not_count_the_evaluation_twice(tmp_path: Path) -> None:
    path = tmp_path / "r"
    whole = ["train.steps=6", "train.convergence.evaluations=2", "train.convergence.threshold=1.0"]
    first = run(path, *whole)
    before = [(path / name).read_bytes() for name in ("metrics.jsonl", "checkpoints/step-00000006/trainer/state.json")]
    for _ in range(3):
        RunDirectory(path).write_state(kind="copy", status="running", step=0)
        again = run(path, resume=True)
        assert (again.step, again.valid_loss, again.stopped_by) == (6, first.valid_loss, first.stopped_by)
    after = [(path / name).read_bytes() for name in ("metrics.jsonl", "checkpoints/step-00000006/trainer/state.json")]
    assert before == after


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\x00", '{"kind": 3}'])
def test_a_damaged_state_is_said_and_written_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r"
    run(path, "train.steps=8", "train.stop_after=3")
    (path / "state.json").write_text(text)
    said: list[str] = []
    with progress.listen(lambda event: said.append(event.text)):
        assert run(path, "train.stop_after=0", resume=True).step == 8
    assert [line for line in said if "state.json is damaged; it is rewritten" in line]
    assert state(path)["status"] == "finished"


def test_a_run_without_run_toml_is_named(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=8", "train.stop_after=3")
    (tmp_path / "r" / "run.toml").unlink()
    for more in ({"resume": True}, {"restart": True}, {}):
        with pytest.raises(UsageError, match="is a run directory without run.toml"):
            run(tmp_path / "r", **more)


@pytest.mark.parametrize(("error", "name"), [(Interrupted("SIGTERM"), "SIGTERM"), (KeyboardInterrupt(), "SIGINT")])
def test_a_signal_after_training_is_recorded_and_the_end_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str
) -> None:
    def finish(self: CopyRecipe, *_: Any) -> CopyResult:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(CopyRecipe, "finish", finish)
        with pytest.raises(type(error)):
            run(tmp_path / "r", "train.steps=3")
    found = state(tmp_path / "r")
    assert (found["status"], found["stopped_by"], found["step"]) == ("interrupted", name, 3)
    assert run(tmp_path / "r", resume=True).finished


def test_a_run_that_is_deleted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: CopyRecipe, *_: Any) -> CopyResult:
        shutil.rmtree(tmp_path / "r")
        raise TrainingError("deleted")

    monkeypatch.setattr(CopyRecipe, "finish", finish)
    with pytest.raises(TrainingError, match="deleted"):
        run(tmp_path / "r", "train.steps=3")
    assert not (tmp_path / "r").exists()


def test_a_finished_run_without_its_checkpoint_is_not_finished(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=5")
    shutil.rmtree(tmp_path / "r" / "checkpoints")
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        run(tmp_path / "r", resume=True)


def test_a_run_toml_that_is_edited_after_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r"
    run(path, "train.steps=5")
    file = path / "run.toml"
    whole = file.read_text()
    request = resolve_request(CopyRecipe(), RunDirectory(path), Layers(), resume=True, check=lambda _: None)
    assert run_recipe(CopyRecipe(), request, process_start=0.0, write_report=no_report).step == 5

    file.write_text(whole.replace("steps = 5\n", "steps = 8\n"))
    request = resolve_request(CopyRecipe(), RunDirectory(path), Layers(), resume=True, check=lambda _: None)
    assert run_recipe(CopyRecipe(), request, process_start=0.0, write_report=no_report).step == 8

    file.write_text(re.sub(r"(?m)^lr = .*$", "lr = 0.3", whole))
    for how in ({"resume": True}, {"resume": True, "restart": True}):
        with pytest.raises(CompatibilityError, match=r"optim.lr = 0.3 \(the run has 0.01\)"):
            resolve_request(CopyRecipe(), RunDirectory(path), Layers(), check=lambda _: None, **how)
    assert not list(path.glob("before-restart-*")), "nothing is moved before the settings are known to be right"


def test_logs_of_lost_checkpoints_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "r"
    run(path, "train.steps=12", "train.stop_after=11")
    shutil.rmtree(path / "checkpoints")
    for name in ("latest", "best", "state.json"):
        (path / name).unlink(missing_ok=True)
    logged = (path / "metrics.jsonl").read_bytes()
    assert run(path, "train.stop_after=0", resume=True).step == 12
    assert (path / "before-restart-1" / "metrics.jsonl").read_bytes() == logged


def test_run_toml_alone_is_no_run(tmp_path: Path) -> None:
    run(tmp_path / "one", "train.steps=2")
    (tmp_path / "two").mkdir()
    shutil.copy(tmp_path / "one" / "run.toml", tmp_path / "two")
    (tmp_path / "two" / "metrics.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="is not a run directory"):
        run(tmp_path / "two", resume=True)
    assert (tmp_path / "two" / "metrics.jsonl").read_text() == "mine"


def test_a_restart_with_other_settings_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "r", "train.steps=2")
    with pytest.raises(CompatibilityError, match="a run that starts again keeps its settings.*optim.lr = 0.5"):
        run(tmp_path / "r", "optim.lr=0.5", restart=True)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"../../other/checkpoints/step-00000004", b""])
def test_a_damaged_pointer_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r"
    run(path, "train.steps=8", "train.stop_after=5")
    for name in ("latest", "best"):
        (path / name).write_bytes(content)
    assert run(path, "train.stop_after=0", resume=True).step == 8
    assert (path / "latest").read_text() == "step-00000008\n"
