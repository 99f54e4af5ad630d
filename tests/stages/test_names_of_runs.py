"""A run or a checkpoint is named by its folder, run.toml, a file of it or RUN@STEP, in every command."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import firstlight
from firstlight import progress
from firstlight.cli.app import run as command
from firstlight.errors import UsageError
from firstlight.stages import data, tokenizer
from firstlight.stages.list_runs import compare_runs

TEXT = "the cat sat on a mat and saw one more bird there\n" * 40
TINY = [
    *("model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16", "tokenizer.kind=byte"),
    *("train.steps=4", "train.checkpoint_every=2", "train.batch_tokens=32", "train.micro_batch=2"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    firstlight.pretrain(folder / "text.txt", out=folder / "run", overrides=[*TINY, "train.keep_last=9"])
    return folder


@pytest.fixture
def notices() -> Iterator[list[str]]:
    found: list[str] = []
    with progress.listen(lambda event: found.append(event.text) if not event.task else None):
        yield found


@pytest.fixture(autouse=True)
def _here(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("run@2", 2),
        ("run/checkpoints/step-00000002", 2),
        ("run/checkpoints/step-00000002/model.safetensors", 2),
        ("run/checkpoints/step-00000002/config.json", 2),
        ("run@latest", 4),
        ("run/latest", 4),
        ("run/run.toml", None),
        ("run/report.html", None),
        ("run/checkpoints", None),
    ],
)
def test_a_model(name: str, step: int | None) -> None:
    source = firstlight.load(name, device="cpu").source
    assert source is not None and source.parent.name == "checkpoints"
    assert step is None or source.name == f"step-{step:08d}"


@pytest.mark.parametrize(
    ("name", "which"), [("run", "best"), ("run@4", "checkpoint, step 4"), ("run@2", "checkpoint, step 2")]
)
def test_generate_says_which_checkpoint_it_uses(name: str, which: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["generate", name, "the", "--max-new-tokens", "2"]) == 0
    out, err = capsys.readouterr()
    said = next(line for line in err.splitlines() if "checkpoint" in line)
    assert which in said
    assert out.startswith("the")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["valid_loss"] for line in lines if "valid_loss" in line}
    step = int(said.partition("step ")[2].partition(",")[0])
    assert ("validation loss" in said) == (step in losses)
    assert step not in losses or f"validation loss {losses[step]:.4f}" in said


def test_other_things_of_a_run() -> None:
    for name in ("run", "run/run.toml", "run/checkpoints", "run/report.html"):
        assert compare_runs(name, "run").settings == {}
    assert data.inspect("run/run.toml") == data.inspect("run")
    assert data.verify("run/run.toml").problems == []
    for name in ("run/run.toml", "run@2", "run/checkpoints", "run/tokenizer/tokenizer.json"):
        assert tokenizer.encode(name, "cat").ids == [99, 97, 116]


def test_a_step_that_is_not_saved(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["generate", "run@3", "the"]) == 2
    assert "run: has no checkpoint of this step (found @3; expected 4, 2)" in capsys.readouterr().err


def _steps(run: str) -> int:
    return int(json.loads((Path(run) / "state.json").read_text())["step"])


@pytest.mark.slow
def test_resuming_by_each_name(notices: list[str]) -> None:
    for number, name in enumerate(["more/run.toml", "more/checkpoints", "more@latest", "more"]):
        if not number:
            firstlight.pretrain("text.txt", out="more", overrides=[*TINY, "train.keep_last=9"])
        newest = max(Path("more/checkpoints").glob("step-*"))
        steps = 6 + 2 * number
        firstlight.pretrain(name, resume=True, overrides=[f"train.steps={steps}"])
        assert _steps("more") == steps and not Path("runs").exists()
        assert not any("a new one starts" in text for text in notices)
    with pytest.raises(UsageError, match=r"not the newest checkpoint.*--from .*more@6"):
        firstlight.pretrain(newest.with_name("step-00000006"), resume=True)
    with pytest.raises(UsageError, match=r"not the newest checkpoint.*--from .*more@6"):
        firstlight.pretrain("more@6", resume=True)


def test_a_settings_file_starts_another_run(notices: list[str]) -> None:
    first = firstlight.pretrain("run/run.toml", out="again")
    assert first.run == Path("again") and first.finished
    second = firstlight.pretrain("run/run.toml", out="new", resume=True, overrides=["train.stop_after=2"])
    assert not second.finished and any("new: there is no run to resume here; a new one starts" in n for n in notices)
    third = firstlight.pretrain("run/run.toml", out="new", resume=True)
    assert third.finished and _steps("new") == 4
    assert third.valid_loss == first.valid_loss


def test_a_file_of_a_run_is_text_where_a_corpus_is_meant(notices: list[str]) -> None:
    Path("run/notes.txt").write_text(TEXT)
    assert firstlight.pretrain("run/notes.txt", out="text", overrides=TINY).finished
    assert any("run/notes.txt: read as text, although it is a file of the run run" in text for text in notices)


def test_a_new_run_from_a_step(notices: list[str]) -> None:
    firstlight.pretrain("text.txt", out="on", init_from="run@2", overrides=["train.steps=1", "train.batch_tokens=32"])
    assert 'init_from = "' + str(Path("run/checkpoints/step-00000002").absolute()) in Path("on/run.toml").read_text()


def test_a_run_directory_is_no_corpus() -> None:
    for name, what in (("run", "is a run directory"), ("run@2", "is a checkpoint of the run run")):
        with pytest.raises(UsageError, match=f"{what}.*--resume"):
            firstlight.pretrain(name, out="never")
    with pytest.raises(UsageError, match="is a checkpoint of the run run.*--from"):
        firstlight.pretrain("run/checkpoints/step-00000002", out="never")
