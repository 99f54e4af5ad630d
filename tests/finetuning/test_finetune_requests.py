"""What finetune is asked for: a run named in its ways, a limit moved on a resume, tasks of one name."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest

import firstlight
from firstlight.cli.app import run as command
from firstlight.errors import CompatibilityError, ConfigError, CorpusError, UsageError
from firstlight.stages.transfer import transfer

TINY = [
    *("model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16", "tokenizer.kind=byte"),
    *("train.steps=1", "train.batch_tokens=32", "train.micro_batch=2", "train.trackers=[]"),
]
TUNE = ["finetune.batch_size=16", "train.trackers=[]"]
TASK = 'kind = "classification"\n[data]\ntrain = "{}"\n[columns]\ntext = "text"\nlabel = "label"\n'

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained run, two tasks of one name, and a run of two epochs on one of them, five updates each."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.txt").write_text("the cat sat on a mat and saw one more bird there\n" * 40, encoding="utf-8")
    rows = "".join(f"a cat {i},good\na bird {i},bad\n" for i in range(40))
    (folder / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    (folder / "other").mkdir()
    (folder / "task.toml").write_text(TASK.format("rows.csv"), encoding="utf-8")
    (folder / "other" / "task.toml").write_text(TASK.format("../rows.csv"), encoding="utf-8")
    firstlight.pretrain(folder / "text.txt", out=folder / "base", overrides=TINY)
    firstlight.finetune(
        folder / "base", folder / "task.toml", out=folder / "tuned", overrides=[*TUNE, "train.epochs=2"]
    )
    return folder


@pytest.fixture(autouse=True)
def _here(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def step_of(run: str) -> int:
    return int(json.loads(Path(run, "state.json").read_text())["step"])


def test_a_limit_is_moved_up_and_not_below_what_was_trained() -> None:
    before = Path("tuned/run.toml").read_bytes()
    for limit in ("train.epochs=1", "train.steps=9", "train.minutes=1"):
        with pytest.raises(UsageError, match="already trained for longer than that|already reached train.epochs"):
            firstlight.finetune("tuned", resume=True, overrides=[limit])
    assert Path("tuned/run.toml").read_bytes() == before
    assert firstlight.finetune("tuned/run.toml", resume=True, overrides=["train.epochs=3"]).step == 15
    assert firstlight.finetune("base", "task.toml", out="tuned", resume=True, overrides=["train.epochs=4"]).step == 20


def test_the_printed_command_continues_a_stopped_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TUNE, "train.epochs=1", "train.stop_after=2"]
    assert command(["finetune", "base", "task.toml", "--out", "stopped", *words]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Resume with: "))
    words = shlex.split(line)
    assert command(words[words.index("finetune") :]) == 0
    assert step_of("stopped") == 5


def test_the_rate_is_changed_on_a_resume_and_stays_through_the_command_that_started_the_run() -> None:
    words = [*TUNE, "train.epochs=2", "train.log_every=1", "train.stop_after=5"]
    firstlight.finetune("base", "task.toml", out="slower", preset="full", overrides=words)
    firstlight.finetune("slower", resume=True, overrides=["optim.lr=1e-5", "train.stop_after=7"])
    again = [*TUNE, "train.epochs=2", "train.log_every=1"]
    result = firstlight.finetune("base", "task.toml", out="slower", preset="full", resume=True, overrides=again)
    assert result.step == 10
    lines = [json.loads(line) for line in Path("slower/metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if "grad_norm" in line]
    assert max(rates[5:]) <= 1e-5 < min(rates[:5])
    settings = Path("slower/run.toml")
    assert "optim.lr from " in settings.read_text(encoding="utf-8")
    settings.write_text(settings.read_text(encoding="utf-8").replace("lr = 1e-05", "lr = 0.5"), encoding="utf-8")
    with pytest.raises(CompatibilityError, match="firstlight finetune .*slower --resume optim.lr=0.5"):
        firstlight.finetune("slower", resume=True)


def test_settings_of_the_task_are_given_as_for_predict(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare.toml").write_text('kind = "classification"\n[data]\ntrain = "rows.csv"\n', encoding="utf-8")
    keys = ["columns.text=text", "columns.label=label", "data.encoding=utf-8", "valid_ratio=0.2"]
    words = ["finetune", "base", "bare.toml", *TUNE, "train.steps=1", "data.seed=5"]
    assert command([*words, "--out", "keyed", *keys]) == 0
    table = tomllib.loads(Path("keyed/run.toml").read_text(encoding="utf-8"))
    assert table["task"]["columns"] == {"text": "text", "label": "label"}
    assert (table["task"]["valid_ratio"], table["data"]["seed"]) == (0.2, 5)
    assert command(["finetune", "keyed/run.toml", "--out", "keyed-again"]) == 0
    file = "checkpoints/step-00000001/model.safetensors"
    assert Path("keyed", file).read_bytes() == Path("keyed-again", file).read_bytes()
    assert command(["predict", "keyed", "rows.csv", *keys[:1], keys[2]]) == 0
    capsys.readouterr()
    for wrong, says in (
        ("columns.txt=text", "columns.txt: unknown setting"),
        ("data.format=cvs", "Did you mean 'csv'?"),
        ("kind=clasification", "Did you mean 'classification'?"),
    ):
        assert command([*words, "--out", "never", *keys, wrong]) == 2
        assert says in capsys.readouterr().err.splitlines()[-1]
        assert not Path("never").exists()
    assert command(["predict", "keyed", "rows.csv", "columns.txt=text"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_run_without_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["tuned"], "tuned: is a run directory. Add --resume"),
        (["tuned", "--out", "new", "--resume"], "two run directories"),
        (["tuned@5", "--resume"], "tuned@5 TASK.toml --out NEW"),
        (["base", "--resume"], "base: is a pretrain run"),
        (["base/run.toml", "--resume"], "base/run.toml: is a pretrain run"),
        (["absent", "--resume"], "absent: no such run"),
        (["base"], "nothing to fine-tune"),
    ):
        assert command(["finetune", *words]) == 2
        assert says in capsys.readouterr().err, words


def test_two_tasks_of_one_name_are_told_before_the_first_is_trained() -> None:
    for call in (transfer, firstlight.finetune):
        with pytest.raises(UsageError, match="task: two tasks have this name"):
            call("base", ["task.toml", "other/task.toml"], out="both", overrides=TUNE)  # type: ignore[operator]
        assert not Path("both").exists()


def test_the_run_toml_of_a_fine_tuning_run_starts_it_again() -> None:
    table = tomllib.loads(Path("tuned/run.toml").read_text(encoding="utf-8"))
    assert table["finetune"]["adapter"] == {"kind": "none", "base": "full"}
    assert not [key for key in table["train"] if "sample" in key or key in ("batch_tokens", "eval_windows")]
    assert firstlight.finetune("tuned/run.toml", out="again", overrides=["train.epochs=1"]).finished


@pytest.mark.parametrize(("name", "near"), [("encodng", "encoding"), ("sed", "seed"), ("empty", "on_empty")])
def test_a_misspelt_setting_of_the_tables_has_a_suggestion(world: Path, tmp_path: Path, name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown setting .*delimiter.*seed.*Did you mean data\.{near}\?"):
        firstlight.finetune(world / "base", world / "task.toml", out=tmp_path / "x", overrides=[f"data.{name}=1"])


@pytest.mark.parametrize(
    ("key", "near"),
    [("metrc", "metric"), ("data.valid_ratio", "valid_ratio"), ("lr", "optim.lr"), ("trian.steps", "train")],
)
def test_a_misspelt_setting_of_the_task_has_a_suggestion(world: Path, tmp_path: Path, key: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown setting.*Did you mean {near}\?"):
        firstlight.finetune(world / "base", world / "task.toml", out=tmp_path / "x", overrides=[f"{key}=1"])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_predictions_are_not_written_under_the_name_of_another_format(world: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"labels.{suffix}"
    with pytest.raises(UsageError, match=r"predictions are JSON lines .*labels\.jsonl"):
        list(firstlight.predict(world / "tuned", world / "rows.csv", out=out))
    assert not out.exists()


def test_a_classifier_is_not_said_to_be_outside_of_a_run(world: Path) -> None:
    with pytest.raises(UsageError, match=r"is fine-tuned: .*evaluation\.json"):
        firstlight.evaluate(world / "tuned")


def test_a_missing_file_to_predict_has_a_suggestion(world: Path) -> None:
    with pytest.raises(CorpusError, match=r"no such file.*Did you mean .*rows\.csv\?"):
        list(firstlight.predict(world / "tuned", world / "rosw.csv"))


def test_a_score_is_printed_beside_that_of_the_majority_class(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path / "x"), "train.steps=1", *TUNE]
    assert command(["finetune", str(world / "base"), str(world / "task.toml"), *options]) == 0
    assert "; n 8; majority class 0.5000; bag of words 1.0000)" in capsys.readouterr().out


def test_forgetting_starts_from_the_loss_of_the_model_as_it_came() -> None:
    result = firstlight.finetune("base", "task.toml", out="forgets", overrides=[*TUNE, "train.steps=1"])
    assert result.forgetting is not None
    # The task adds special tokens, to which a new row of the vocabulary gives some probability.
    assert result.forgetting["before"] == pytest.approx(
        json.loads(Path("base/state.json").read_text())["result"]["valid_loss"], abs=1e-6
    )


def test_an_unknown_task_is_refused_before_anything_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["finetune", "base", "scene", "--out", "none"]) == 2
    told = capsys.readouterr().err
    assert "Did you mean 'scenes'?" in told and "learning rate" not in told


@pytest.mark.parametrize("written", [r"data.delimiter=\t", r'data.delimiter="\t"'])
def test_a_tab_is_named_as_shells_pass_it(written: str) -> None:
    Path("tabs.csv").write_text(Path("rows.csv").read_text().replace(",", "\t"))
    Path("tabs.toml").write_text(TASK.format("tabs.csv"))
    result = firstlight.finetune(
        "base", "tabs.toml", out=f"tabs{len(written)}", overrides=[*TUNE, "train.steps=1", written]
    )
    assert result.valid["tabs"]["n"] == 8
    with pytest.raises(ConfigError, match=r"""a space is 'data.delimiter=" "'"""):
        firstlight.finetune("base", "tabs.toml", out="no", overrides=[*TUNE, "data.delimiter= "])
