"""Results of commands of several runs, and settings of a tokenizer, are not replaced unasked."""

import json
from pathlib import Path

import pytest

from firstlight.cli.app import run
from firstlight.errors import CompatibilityError, UsageError
from firstlight.runs import RunDirectory
from firstlight.stages import tokenizer as tokenizer_stage
from firstlight.stages.finetune_seeds import finetune_seeds
from firstlight.stages.transfer import transfer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()


def test_a_transfer_is_refused_before_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/transfer.json").write_text("mine")
    with pytest.raises(UsageError, match=r"transfer\.json: already exists.*--overwrite"):
        transfer("no-model", ["a.toml", "b.toml"], out="out")
    assert run(["transfer", "no-model", "a.toml", "b.toml", "--out", "out", "--overwrite"]) == 2
    assert "a.toml: no such settings file" in capsys.readouterr().err
    assert Path("out/transfer.json").read_text() == "mine"


def test_the_summary_of_seeds_is_replaced_only_with_its_runs() -> None:
    summary = Path("out/seeds.json")
    summary.write_text("mine")
    with pytest.raises(UsageError, match=r"seeds\.json: already exists.*--resume"):
        finetune_seeds(2, "no-model", ["a.toml"], out="out")
    with pytest.raises(UsageError, match=r"seeds\.json: already exists"):  # there are no runs to resume
        finetune_seeds(2, "no-model", ["a.toml"], out="out", resume=True)
    seed = RunDirectory(Path("out/seed-1"))
    seed.path.mkdir()
    seed.write_mark("finetune")
    seed.settings_file.write_text("")
    with pytest.raises(UsageError, match=r"seeds\.json: already exists"):  # it is not a summary
        finetune_seeds(2, "no-model", ["a.toml"], out="out", resume=True)
    summary.write_text(json.dumps({"seeds": 2}))
    with pytest.raises(UsageError, match=r"seeds\.json: already exists.*--resume"):
        finetune_seeds(2, "no-model", ["a.toml"], out="out")
    with pytest.raises(CompatibilityError, match="other data"):  # the run goes on
        finetune_seeds(2, "no-model", ["a.toml"], out="out", resume=True)


def test_edited_settings_of_the_same_tokenizer_are_kept() -> None:
    Path("text.txt").write_text("the day was fine\n" * 20)
    tokenizer_stage.train(["text.txt"], out="one", overrides=["tokenizer.kind=char"])
    tokenizer_stage.import_("one", out="two")
    tokenizer_stage.import_("one", out="two")
    config = Path("two/tokenizer_config.json")
    edited = json.dumps({**json.loads(config.read_text()), "padding_side": "left"})
    config.write_text(edited)
    with pytest.raises(UsageError, match=r"tokenizer_config\.json: already exists.*--overwrite"):
        tokenizer_stage.import_("one", out="two")
    with pytest.raises(UsageError, match=r"tokenizer_config\.json: already exists.*--overwrite"):
        tokenizer_stage.train(["text.txt"], out="two", overrides=["tokenizer.kind=char"])
    assert config.read_text() == edited
    tokenizer_stage.import_("one", out="two", overwrite=True)
    assert config.read_text() != edited
