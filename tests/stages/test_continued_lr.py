"""The default learning rate of a run that starts from a model; what fine-tuning and longer runs say about theirs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import firstlight
from firstlight import progress
from firstlight.runs import RunDirectory
from firstlight.stages.continued_lr import LR_RATIO, WARMUP_STEPS

TEXT = "the cat sat on a mat and saw one more bird there\n" * 40
TINY = [
    *("model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16", "tokenizer.kind=byte"),
    *("train.steps=4", "train.batch_tokens=32", "train.micro_batch=2", "train.trackers=[]", "train.sample_every=0"),
]
CONTINUED = [*TINY[5:], "train.steps=2", "train.log_every=1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    firstlight.pretrain(folder / "text.txt", out=folder / "run", overrides=TINY)
    return folder


@pytest.fixture
def notices() -> Iterator[list[str]]:
    found: list[str] = []
    with progress.listen(lambda event: found.append(event.text) if not event.task else None):
        yield found


def continued(world: Path, out: Path, *overrides: str) -> RunDirectory:
    init_from = str(world / "run")
    firstlight.pretrain(world / "text.txt", out=out, init_from=init_from, overrides=[*CONTINUED, *overrides])
    return RunDirectory(out)


def test_it_is_a_fraction_of_the_default_and_is_said(world: Path, tmp_path: Path, notices: list[str]) -> None:
    optim = continued(world, tmp_path / "on").read_settings()["optim"]
    assert optim["lr"] == pytest.approx(0.02 * LR_RATIO)
    assert optim["adamw_lr"] == pytest.approx(3e-3 * LR_RATIO)
    assert optim["schedule"]["warmup_steps"] == WARMUP_STEPS
    assert any(f"{LR_RATIO:g} of the default, since the run starts from a trained model" in text for text in notices)


def test_what_is_set_stays(world: Path, tmp_path: Path, notices: list[str]) -> None:
    given = ["optim.name=adamw", "optim.lr=0.005", "optim.schedule.warmup_ratio=0.5"]
    optim = continued(world, tmp_path / "on", *given).read_settings()["optim"]
    assert (optim["lr"], optim["schedule"].get("warmup_steps", 0), optim["schedule"]["warmup_ratio"]) == (0.005, 0, 0.5)
    assert not any("of the default" in text for text in notices)


def test_a_preset_has_the_rate_of_a_fresh_start_and_a_resume_keeps_what_was_used(world: Path, tmp_path: Path) -> None:
    settings = ["tokenizer.kind=byte", "train.minutes=9", *CONTINUED]
    firstlight.pretrain(world / "text.txt", out=tmp_path / "first", preset="quickstart", overrides=settings)
    for resume, stop_after in ((False, 1), (True, 0)):
        result = firstlight.pretrain(
            world / "text.txt",
            out=tmp_path / "on",
            init_from=str(tmp_path / "first"),
            preset="quickstart",
            resume=resume,
            overrides=["train.minutes=9", *CONTINUED, f"train.stop_after={stop_after}"],
        )
    assert (result.step, result.finished) == (2, True)
    optim = RunDirectory(tmp_path / "on").read_settings()["optim"]
    assert optim["lr"] == pytest.approx(0.014 * LR_RATIO)
    firstlight.pretrain(tmp_path / "on" / "run.toml", out=tmp_path / "again")
    assert RunDirectory(tmp_path / "again").read_settings()["optim"] == optim


def test_step_0_is_measured_saved_and_can_be_the_best(world: Path, tmp_path: Path, notices: list[str]) -> None:
    continued(world, tmp_path / "on", "optim.name=adamw", "optim.lr=9", "optim.schedule.warmup_steps=0")
    lines = [json.loads(line) for line in (tmp_path / "on" / "metrics.jsonl").read_text().splitlines()]
    before = [line for line in lines if "valid_loss" in line][0]
    assert before["step"] == 0
    last = json.loads((world / "run" / "evaluation.json").read_text())["valid"]["loss"]
    assert before["valid_loss"] == pytest.approx(last, rel=1e-5)
    assert (tmp_path / "on" / "best").read_text() == "step-00000000\n"
    assert any("its best checkpoint is step 0" in text for text in notices)


def test_a_longer_run_says_that_its_rate_rises(world: Path, tmp_path: Path, notices: list[str]) -> None:
    overrides = [*TINY, "train.steps=10", "train.log_every=1"]
    firstlight.pretrain(world / "text.txt", out=tmp_path / "run", overrides=overrides)
    firstlight.pretrain(tmp_path / "run", resume=True, overrides="train.steps=20")
    (said,) = [text for text in notices if "the learning rate rises again" in text]
    assert "from 0.00" in said and "to 0.02" in said
