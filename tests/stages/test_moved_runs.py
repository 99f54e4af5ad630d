"""Runs are resumed and repeated from any folder, moved, and after inputs that they do not hold were moved."""

import shutil
from pathlib import Path

import pytest

from firstlight.config import read_toml
from firstlight.errors import CompatibilityError, UsageError
from firstlight.finetuning import read_tasks
from firstlight.stages.finetune import finetune
from firstlight.stages.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
QUIET = ["train.trackers=[]", "train.log_every=1", "hardware.threads=1", "hardware.device=cpu"]
SMALL = ["model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16", "train.batch_tokens=64", *QUIET]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, and runs on it that were stopped; everything was named relative to it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text("the day was fine and the film was dull\n" * 30)
        Path("tasks").mkdir()
        Path("tasks/t.tsv").write_text("text\tlabel\n" + "a day\tgood\nthe film\tbad\n" * 6)
        Path("tasks/t.toml").write_text(
            'kind = "classification"\n[data]\ntrain = "t.tsv"\nvalid = "t.tsv"\n'
            '[columns]\ntext = "text"\nlabel = "label"\n'
        )
        pretrain(["text.txt"], out="base", overrides=["tokenizer.kind=byte", "train.steps=2", *SMALL])
        more = ["train.steps=4", "train.stop_after=2", *QUIET]
        pretrain(["text.txt"], out="on", init_from="base", overrides=[*more, "train.batch_tokens=64"])
        more += ["finetune.batch_size=4"]
        finetune("base", ["tasks/t.toml"], out="full", preset="full", overrides=more)
        finetune("base", ["tasks/t.toml"], out="lora", preset="lora", overrides=[*more, "finetune.keep_base=false"])
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder in its place, and another folder to work in."""
    kept = tmp_path / "kept"
    shutil.copytree(made, kept)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield made
    shutil.rmtree(made)
    shutil.copytree(kept, made)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_fine_tuning_is_resumed_and_repeated_from_elsewhere(world: Path, name: str) -> None:
    moved = Path("moved")
    shutil.move(world / name, moved)
    assert finetune(moved, resume=True, overrides=["train.stop_after=0"]).step == 4
    assert Path(read_tasks(moved)["t"].data.folder) == world / "tasks"
    again = finetune(moved / "run.toml", out="again", overrides=["train.steps=1"])
    assert again.step == 1 and read_toml(Path("again/run.toml"))["run"]["init_from"] == str(world / "base")


def test_pre_training_from_a_model_is_resumed_and_repeated_from_elsewhere(world: Path) -> None:
    assert pretrain([str(world / "on")], resume=True, overrides=["train.stop_after=0"]).step == 4
    assert pretrain([str(world / "on" / "run.toml")], out="again", overrides=["train.steps=1"]).step == 1
    shutil.move(world / "base", "base")
    assert pretrain([str(world / "on")], resume=True, overrides=["train.steps=5"]).step == 5
    assert pretrain([str(world / "on")], resume=True, overrides=["train.steps=6", "run.init_from=base"]).step == 6


def test_inputs_that_were_moved_are_named_anew(world: Path) -> None:
    run = world / "lora"
    shutil.move(world / "base", "base")
    with pytest.raises(UsageError, match="model that the run started from is not there .*new place.* run.init_from="):
        finetune(run, resume=True, overrides=["train.stop_after=0"])
    shutil.move(world / "tasks", "tasks")
    more = ["train.stop_after=0", "run.init_from=base"]
    assert finetune(run, resume=True, overrides=[*more, 'run.tasks=["tasks/t.toml"]']).step == 4
    assert read_tasks(run)["t"].data.folder == str(Path("tasks").absolute())
    assert read_toml(run / "run.toml")["run"]["tasks"] == [str(Path("tasks/t.toml").absolute())]


def test_other_rows_or_another_base_in_the_new_place_are_refused(world: Path) -> None:
    shutil.move(world / "tasks", "tasks")
    with Path("tasks/t.tsv").open("a") as file:
        file.write("more\tbad\n")
    with pytest.raises(CompatibilityError, match="trained with other rows"):
        finetune(world / "lora", resume=True, overrides=["train.stop_after=0", 'run.tasks=["tasks/t.toml"]'])
    with pytest.raises(CompatibilityError, match="other data"):
        finetune(world / "lora", resume=True, overrides=["train.stop_after=0", f"run.init_from={world / 'full'}"])


def test_adapters_are_not_put_on_a_base_that_was_trained_further(world: Path) -> None:
    pretrain([str(world / "base")], resume=True, overrides=["train.steps=4"])
    with pytest.raises(CompatibilityError, match="trained with adapters of another model"):
        finetune(world / "lora", resume=True, overrides=["train.stop_after=0"])


def test_a_run_toml_that_is_incomplete_says_what_is_missing(world: Path) -> None:
    Path("r.toml").write_text("[finetune]\nbatch_size = 4\n")
    with pytest.raises(UsageError, match="nothing to fine-tune"):
        finetune("r.toml", out="again")
    assert not Path("again").exists() and world
