"""The default learning rate of a run that starts from a model; what fine-tuning and longer runs say about theirs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import firstlight
from firstlight import progress
from firstlight.runs import RunDirectory
from firstlight.stages.continued_lr import KNOWN_TEXT_RATIO, WARMUP_STEPS, lr_ratio

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
    firstlight.pretrain(folder / "text.txt", out=folder / "run", overrides=[*TINY, "train.steps=60"])
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


def test_on_text_like_the_models_own_it_is_a_fraction(world: Path, tmp_path: Path, notices: list[str]) -> None:
    optim = continued(world, tmp_path / "on").read_settings()["optim"]
    assert optim["lr"] == pytest.approx(0.02 * KNOWN_TEXT_RATIO)
    assert optim["adamw_lr"] == pytest.approx(3e-3 * KNOWN_TEXT_RATIO)
    assert optim["schedule"]["warmup_steps"] == WARMUP_STEPS
    (said,) = [text for text in notices if "of a fresh start's learning rate" in text]
    loss = json.loads((world / "run" / "evaluation.json").read_text())["valid"]["loss"]
    assert f"whose loss on this text is {loss:.3f}, and {loss:.3f} on its own validation text" in said


def test_on_other_text_it_is_that_of_a_fresh_start(world: Path, tmp_path: Path, notices: list[str]) -> None:
    (tmp_path / "other.txt").write_text("QUARTZ JOB VEX FLY WHIM! " * 90, encoding="utf-8")
    firstlight.pretrain(tmp_path / "other.txt", out=tmp_path / "on", init_from=str(world / "run"), overrides=CONTINUED)
    assert RunDirectory(tmp_path / "on").read_settings()["optim"]["lr"] == 0.02


def test_the_fraction_by_hand() -> None:
    assert [lr_ratio(nats) for nats in (None, -1.0, 0.1)] == [0.3, 0.3, 0.3]
    assert [lr_ratio(nats) for nats in (0.4, 9.0)] == [1.0, 1.0]
    assert lr_ratio(0.25) == pytest.approx(0.3**0.5)


def test_a_model_without_a_run_has_the_fraction_of_known_text(world: Path, tmp_path: Path) -> None:
    (checkpoint,) = (world / "run" / "checkpoints").iterdir()
    shutil.copytree(checkpoint, tmp_path / "model")
    firstlight.pretrain(world / "text.txt", out=tmp_path / "on", init_from=str(tmp_path / "model"), overrides=CONTINUED)
    assert RunDirectory(tmp_path / "on").read_settings()["optim"]["lr"] == pytest.approx(0.02 * KNOWN_TEXT_RATIO)


def test_what_is_set_stays(world: Path, tmp_path: Path, notices: list[str]) -> None:
    given = ["optim.name=adamw", "optim.lr=0.005", "optim.schedule.warmup_ratio=0.5"]
    optim = continued(world, tmp_path / "on", *given).read_settings()["optim"]
    assert (optim["lr"], optim["schedule"].get("warmup_steps", 0), optim["schedule"]["warmup_ratio"]) == (0.005, 0, 0.5)
    assert not any("of a fresh start" in text for text in notices)


@pytest.mark.slow
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
    assert optim["lr"] == pytest.approx(0.014 * KNOWN_TEXT_RATIO)
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


@pytest.mark.slow
def test_a_longer_run_says_that_its_rate_rises(world: Path, tmp_path: Path, notices: list[str]) -> None:
    overrides = [*TINY, "train.steps=10", "train.log_every=1"]
    firstlight.pretrain(world / "text.txt", out=tmp_path / "run", overrides=overrides)
    firstlight.pretrain(tmp_path / "run", resume=True, overrides="train.steps=20")
    (said,) = [text for text in notices if "the learning rate rises again" in text]
    assert "from 0.00" in said and "to 0.02" in said


def test_the_default_preset_has_the_same_rate_when_it_is_named(world: Path, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "a cat\t0\na bird\t1\n" * 12, encoding="utf-8")
    task = tmp_path / "t.toml"
    task.write_text('kind = "classification"\n[data]\ntrain = "t.tsv"\n[columns]\ntext = "text"\nlabel = "label"\n')
    for preset in ("full", None):
        out = tmp_path / str(preset)
        firstlight.finetune(world / "run", task, out=out, preset=preset, overrides=["train.steps=1"])
        assert RunDirectory(out).read_settings()["optim"]["lr"] == pytest.approx(9e-4)
