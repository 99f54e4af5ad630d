"""The list of runs: states, metrics, and runs that are damaged or half-written."""

import json
import shutil
from pathlib import Path

import pytest

from firstlight.errors import UsageError
from firstlight.runs import RunDirectory
from firstlight.stages.list_runs import compare_runs, list_runs, summarize_run

SETTINGS = '[run]\nseed = 1\n\n[optim]\nname = "muon"\nlr = 0.02\n'


def write_run(path: Path, status: str = "finished", settings: str = SETTINGS) -> Path:
    (path / "checkpoints").mkdir(parents=True)
    (path / "run.toml").write_text(settings)
    state = {"status": status, "step": 20, "seconds": 3.5, "result": {"tokens": 640}}
    (path / "state.json").write_text(json.dumps(state))
    lines = [{"step": s, "valid_loss": v, "bits_per_byte": v / 2} for s, v in ((10, 3.0), (20, 3.5))]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "evaluation.json").write_text(json.dumps({"parameters": 1234}))
    return path


def test_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    found = summarize_run(run)
    assert (found.name, found.kind, found.state, found.steps, found.tokens) == ("a", "pretrain", "finished", 20, 640)
    assert (found.valid_loss, found.bits, found.parameters, found.seconds) == (3.0, {"bits_per_byte": 1.5}, 1234, 3.5)
    assert found.size_bytes == sum(p.stat().st_size for p in run.rglob("*") if p.is_file())
    assert found.problems == []


@pytest.mark.parametrize(
    ("status", "state"),
    [(s, s) for s in ("finished", "stopped", "interrupted", "failed")] + [("running", "incomplete")],
)
def test_state(tmp_path: Path, status: str, state: str) -> None:
    assert summarize_run(write_run(tmp_path / "a", status)).state == state


def test_run_is_running_while_its_lock_is_held(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "running")
    with RunDirectory(run).lock():
        assert summarize_run(run).state == "running"
    assert summarize_run(run).state == "incomplete"


def test_runs_below_a_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "seeds" / "seed-1", settings=SETTINGS + "[finetune]\nbatch_size = 8\n")
    (tmp_path / "seeds" / "seed-1" / "data" / "inner").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").touch()
    found = {run.name: run.kind for run in list_runs(tmp_path)}
    assert found == {"a": "pretrain", "seeds/seed-1": "finetune"}
    assert [run.name for run in list_runs(tmp_path / "a")] == ["a"]
    with pytest.raises(UsageError, match="no such folder"):
        list_runs(tmp_path / "absent")


@pytest.mark.parametrize("name", ["run.toml", "state.json", "metrics.jsonl", "evaluation.json"])
@pytest.mark.parametrize("damage", [b"", b"{garbage", b"\xff\xfe\x00", b"[1]", b'{"status": 3, "step": "NaN"}'])
def test_damaged_runs_are_listed(tmp_path: Path, name: str, damage: bytes) -> None:
    run = write_run(tmp_path / "a")
    (run / name).write_bytes(damage)
    [found] = list_runs(tmp_path)
    assert found.name == "a"
    json.dumps(found.to_json())
    (run / name).unlink()
    (run / name).mkdir()
    assert list_runs(tmp_path)[0].name == "a"


def test_half_written_runs_are_incomplete(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").touch()
    (tmp_path / "b" / "checkpoints" / "step-00000001").mkdir(parents=True)
    found = {run.name: (run.state, run.steps, run.valid_loss) for run in list_runs(tmp_path)}
    assert found == {"a": ("incomplete", None, None), "b": ("incomplete", None, None)}


def test_comparison(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", settings=SETTINGS.replace("0.02", "0.01") + "nesterov = false\n")
    found = compare_runs(first, second / "run.toml")
    assert found.settings == {"optim.lr": (0.02, 0.01), "optim.nesterov": (None, False)}
    assert (found.first.name, found.second.name) == ("a", "b")
    assert found.changes == ([], [])
    event = {"step": 10, "kind": "setting", "text": "optim.lr changed from 0.02 to 0.01"}
    (second / "events.jsonl").write_text('{"step": 10, "kind": "resume", "text": "x"}\n' + json.dumps(event) + "\n")
    assert compare_runs(first, second).changes == ([], ["step 10: optim.lr changed from 0.02 to 0.01"])
    shutil.rmtree(second)
    with pytest.raises(UsageError, match="not a run directory"):
        compare_runs(first, second)
