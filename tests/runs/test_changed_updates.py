"""Settings of the updates (learning rate, schedule, decay, clipping) that a resume changes: recorded, kept, refused."""

import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_recipe import CopyRecipe, CopyResult, no_report
from safetensors.torch import load_file

from firstlight import progress
from firstlight.config import parse_overrides
from firstlight.errors import CompatibilityError, UsageError
from firstlight.report import write_run_report
from firstlight.runs import Layers, RunDirectory, resolve_request, run_recipe
from firstlight.runs.compatibility import describe_changes

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

START = [
    *("train.steps=20", "train.eval_every=4", "train.checkpoint_every=5", "train.log_every=1"),
    *("train.sample_every=0", "train.trackers=[]", "hardware.device=cpu", "hardware.compile=off"),
    *("optim.lr=0.01", "optim.schedule.name=linear", "optim.schedule.warmup_steps=2"),
]


def go(path: Path, *overrides: str, fail_at: int | None = None, **tables: dict[str, Any]) -> CopyResult:
    """Start a run, or resume it with nothing but these settings; ``fail_at`` ends it between two checkpoints."""
    recipe, is_new = CopyRecipe(fail_at=fail_at), not path.exists()
    arguments = parse_overrides([*(START if is_new else ()), *overrides])
    layers = Layers(arguments=arguments, **tables)
    request = resolve_request(recipe, RunDirectory(path), layers, resume=not is_new, check=lambda _: None)
    return run_recipe(recipe, request, process_start=time.perf_counter(), write_report=no_report)


def cut(path: Path, *overrides: str, fail_at: int) -> None:
    with pytest.raises(ValueError, match="the evaluation is broken"):
        go(path, *overrides, fail_at=fail_at)


def tensors(path: Path, step: int) -> dict[str, torch.Tensor]:
    folder = path / "checkpoints" / f"step-{step:08d}"
    return load_file(folder / "model.safetensors") | load_file(folder / "trainer" / "optimizer.safetensors")


def same(one: Path, two: Path, step: int = 20) -> bool:
    a, b = tensors(one, step), tensors(two, step)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and rates(one) == rates(two)


def rates(path: Path) -> list[float]:
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [line["lr"] for line in lines if "grad_norm" in line]


def changes(path: Path) -> list[tuple[int, str]]:
    lines = map(json.loads, (path / "events.jsonl").read_text().splitlines())
    return [(e["step"], e["text"]) for e in lines if e["kind"] == "setting"]


def test_a_changed_rate_scales_the_schedule_and_outlives_a_kill(tmp_path: Path) -> None:
    plain, whole, killed = (tmp_path / name for name in ("plain", "whole", "killed"))
    go(plain)
    for path in (whole, killed):
        go(path, "train.stop_after=7")
    go(whole, "optim.lr=0.004")
    cut(killed, "optim.lr=0.004", fail_at=8)  # before the next checkpoint
    assert RunDirectory(killed).read_settings()["optim"]["lr"] == 0.004
    go(killed)
    assert same(whole, killed)
    assert rates(whole)[:7] == rates(plain)[:7]
    assert rates(whole)[7:] == pytest.approx([0.4 * lr for lr in rates(plain)[7:]])
    for path in (whole, killed):
        assert changes(path) == [(7, "optim.lr changed from 0.01 to 0.004")]
        assert "optim.lr from 0.01 to 0.004 at step 7" in (path / "run.toml").read_text()
    write_run_report(killed)
    assert "optim.lr changed from 0.01 to 0.004" in (killed / "report.html").read_text()


def test_a_second_change_and_a_change_back(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for path in (whole, killed):
        go(path, "train.stop_after=5")
        go(path, "optim.lr=0.002", "optim.clip_norm=0.1", "optim.betas=[0.8, 0.9]", "train.stop_after=10")
    cut(killed, "optim.lr=0.03", fail_at=12)  # a change that no checkpoint has
    cut(killed, fail_at=12)
    cut(killed, "optim.lr=0.01", fail_at=12)
    go(killed)
    go(whole, "optim.lr=0.01")
    assert same(whole, killed)
    record = json.loads((killed / "contract.json").read_text())
    assert [(c["step"], c["key"], c["old"], c["new"]) for c in record["changed_settings"]] == [
        (5, "optim.betas", [0.9, 0.95], [0.8, 0.9]),
        (5, "optim.clip_norm", 1.0, 0.1),
        (5, "optim.lr", 0.01, 0.002),
        (10, "optim.lr", 0.002, 0.01),
    ]
    logged = [(s, text) for s, text in changes(killed) if text.startswith("optim.lr")]
    assert logged == [
        (5, "optim.lr changed from 0.01 to 0.002"),
        (10, "optim.lr changed from 0.002 to 0.03"),
        (10, "optim.lr changed from 0.03 to 0.01"),
    ]


def test_the_schedule_and_the_decay_change_and_the_optimizer_does_not(tmp_path: Path) -> None:
    path = tmp_path / "r"
    go(path, "optim.name=muon", "train.stop_after=5")
    for wrong in ("optim.name=adamw", "optim.ns_steps=3", "optim.eps=1e-6"):
        with pytest.raises(CompatibilityError, match="cannot change these settings"):
            go(path, wrong)
    said: list[str] = []
    with progress.listen(lambda event: said.append(event.text)):
        go(path, "optim.lr=0.005", "optim.schedule.name=constant", "optim.weight_decay=0.2", "train.stop_after=7")
    assert "optim.adamw_lr stays 0.003" in said
    assert rates(path)[5:] == [0.005, 0.005]
    go(path, "optim.schedule.name=cosine", "optim.schedule.min_ratio=0.5")
    assert rates(path)[-1] == pytest.approx(0.0025, rel=0.1)
    assert RunDirectory(path).read_settings()["optim"]["weight_decay"] == 0.2


def test_a_kill_between_the_record_and_run_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r"
    go(path, "train.stop_after=5")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunDirectory, "write_settings", killed)
        go(path, "optim.lr=0.004", "train.steps=15")
    assert RunDirectory(path).read_settings()["optim"]["lr"] == 0.01
    assert go(path).step == 15
    assert RunDirectory(path).read_settings()["optim"]["lr"] == 0.004
    assert changes(path) == [(5, "optim.lr changed from 0.01 to 0.004"), (5, "train.steps changed from 20 to 15")]


def test_an_edited_run_toml_is_refused_with_the_line_to_type(tmp_path: Path) -> None:
    path = tmp_path / "r"
    go(path, "train.stop_after=5")
    file = path / "run.toml"
    text, n = re.subn(r"(?m)^lr = 0.01$", "lr = 0.004", file.read_text())
    text, m = re.subn(r"(?m)^clip_norm = 1.0\n", "", text.replace("weight_decay = 0.1", "weight_decay = 0.3"))
    assert (n, m) == (1, 1)
    file.write_text(text)
    with pytest.raises(CompatibilityError) as caught:
        go(path)
    assert caught.value.found == "optim.lr = 0.004 (the run has 0.01), optim.weight_decay = 0.3 (the run has 0.1)"
    words = shlex.split(str(caught.value.fix).partition("change them: ")[2])
    assert words[-5:] == ["copy", str(path.absolute()), "--resume", "optim.lr=0.004", "optim.weight_decay=0.3"]
    with pytest.raises(CompatibilityError, match=r"optim.weight_decay = 0.3"):
        go(path, "optim.lr=0.004")
    go(path, *words[-2:], "train.stop_after=7")
    assert changes(path)[:2] == [
        (5, "optim.lr changed from 0.01 to 0.004"),
        (5, "optim.weight_decay changed from 0.1 to 0.3"),
    ]
    file.write_text(file.read_text().replace("lr = 0.004", "lr = 0.02"))
    go(path, "optim.lr=0.004")  # what the run has
    assert rates(path)[7] < 0.004


def test_the_command_that_started_the_run_does_not_set_it_back(tmp_path: Path) -> None:
    path, preset = tmp_path / "r", {"optim": {"weight_decay": 0.4}}
    go(path, "train.stop_after=5", preset=preset)
    go(path, "optim.weight_decay=0.2", "train.stop_after=7", preset=preset)
    go(path, "train.stop_after=9", preset=preset)
    assert RunDirectory(path).read_settings()["optim"]["weight_decay"] == 0.2
    go(path, "train.stop_after=10", file=preset)
    assert RunDirectory(path).read_settings()["optim"]["weight_decay"] == 0.2
    with pytest.raises(CompatibilityError, match=r"by key=value.*--resume optim.weight_decay=0.7"):
        go(path, file={"optim": {"weight_decay": 0.7}})


def test_a_lost_record_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "r"
    go(path, "train.stop_after=5")
    cut(path, "optim.lr=0.004", fail_at=8)
    (path / "contract.json").unlink()
    with pytest.raises(CompatibilityError, match=r"optim.lr = 0.004 \(trained with 0.01\).*--resume optim.lr=0.004"):
        go(path)
    go(path, "optim.lr=0.004")
    assert rates(path)[5] < 0.004


def test_a_run_that_has_ended_needs_a_further_limit(tmp_path: Path) -> None:
    path = tmp_path / "r"
    go(path)
    before = (path / "run.toml").read_bytes()
    with pytest.raises(UsageError, match="no step would be taken with the new value") as caught:
        go(path, "optim.lr=0.004")
    assert (path / "run.toml").read_bytes() == before
    assert go(path).step == 20, "the refused change left nothing behind"
    words = shlex.split(str(caught.value.fix).partition("command: ")[2])
    assert words[-2:] == ["train.steps=40", "optim.lr=0.004"]
    assert go(path, *words[-2:]).step == 40
    assert rates(path)[20] == pytest.approx(0.004 * (1 - 18 / 38))


def test_an_edited_limit_is_an_event(tmp_path: Path) -> None:
    path = tmp_path / "r"
    go(path, "train.stop_after=5")
    file = path / "run.toml"
    file.write_text(file.read_text().replace("\nsteps = 20\n", "\nsteps = 10\n"))
    assert go(path).step == 10
    assert changes(path) == [(5, "train.steps changed from 20 to 10")]
    go(path)
    assert len(changes(path)) == 1


def test_a_file_of_such_a_run_says_that_it_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "r"
    go(path, "train.stop_after=5")
    go(path, "optim.lr=0.004", "train.stop_after=7")
    said: list[str] = []
    layers = Layers(file=RunDirectory(path).read_settings(), path=path / "run.toml")
    with progress.listen(lambda event: said.append(event.text)):
        resolve_request(CopyRecipe(), RunDirectory(tmp_path / "again"), layers, resume=False, check=lambda _: None)
    assert any("optim.lr from 0.01 to 0.004 at step 5" in text and "is another run" in text for text in said)


def test_an_old_value_is_shown_without_the_noise_of_its_product() -> None:
    changes = [{"key": "optim.lr", "old": 0.003 * 0.1, "new": 0.0005, "step": 15}]
    assert describe_changes({"changed_settings": changes}) == "optim.lr from 0.0003 to 0.0005 at step 15"
