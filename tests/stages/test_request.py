"""What was asked for becomes settings: presets, a TOML file, words, and on a resume what the run has."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from firstlight.config import dump_toml, preset_names
from firstlight.errors import CompatibilityError, ConfigError, FirstlightError, UsageError
from firstlight.files import write_manifest
from firstlight.runs import Request, RunDirectory
from firstlight.stages.pretrain import PretrainRecipe
from firstlight.stages.request import PRESETS, pretrain_request
from firstlight.stages.settings import PretrainSettings
from firstlight.stages.vocab_settings import unused_of_kind


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("some text", encoding="utf-8")


def ask(*words: str, **options: Any) -> Request[PretrainSettings]:
    asked: dict[str, Any] = {"out": None, "preset_name": None, "init_from": None, "resume": False, "overrides": []}
    out = options.pop("out", None)
    return pretrain_request(PretrainRecipe(), words, **{**asked, **options, "out": None if out is None else Path(out)})


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return path


def make_run(folder: str, *overrides: str) -> Path:
    """Leave what a run writes first."""
    request = ask("text.txt", out=folder, overrides=list(overrides))
    write(f"{folder}/run.toml", dump_toml(request.settings))
    RunDirectory(Path(folder)).write_mark("pretrain")
    return Path(folder)


def make_store(folder: str) -> Path:
    Path(folder).mkdir(parents=True)
    write_manifest(Path(folder))
    return Path(folder)


def test_later_layers_win():
    write("my.toml", '[run]\ncorpus = ["text.txt"]\n[model]\nn_layer = 7\n[train]\nsteps = 70\n')
    settings = ask("my.toml", preset_name="quickstart", overrides=["train.steps=700"]).settings
    assert settings.model.n_embd == 192  # of the preset
    assert settings.model.n_layer == 7  # of the file
    assert settings.train.steps == 700  # of the words
    assert settings.run.corpus == ["text.txt"]


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_every_preset_is_valid(name: str):
    assert ask("text.txt", preset_name=name).settings.model.n_layer >= 1


def test_the_presets_that_pages_name_are_there():
    assert set(preset_names(PRESETS)) >= {"quickstart", "shakespeare-char-cpu"}


def test_a_corpus_a_store_and_a_file_are_told_apart():
    make_store("store")
    assert ask("text.txt", "other.txt").settings.run.corpus == ["text.txt", "other.txt"]
    stored = ask("store").settings.run
    assert (stored.store, stored.corpus) == ("store", [])
    assert ask("text.txt", init_from="runs/a").settings.run.init_from == "runs/a"


@pytest.mark.parametrize(
    ("named", "run"),
    [
        (["books.txt.gz"], "runs/books"),
        (["a/b/tiny-corpus.jsonl", "z"], "runs/tiny-corpus"),
        (["-"], "runs/run"),
        (["books/*.txt"], "runs/books"),
        (["tinyshakespeare"], "runs/tinyshakespeare"),
        ([".", "x"], "runs/run"),
        (["hf:roneneldan/TinyStories"], "runs/TinyStories"),
        (["書.txt"], "runs/書"),
        (["../*"], "runs/run"),
    ],
)
def test_a_run_is_named_after_its_first_input(named: list[str], run: str):
    assert ask(*named).run.path == Path(run)


def test_a_run_is_named_after_its_file():
    table = '[run]\ncorpus = ["text.txt"]\n'
    assert ask(write("mine.toml", table)).run.path == Path("runs/mine")
    assert ask(write("runs/old/run.toml", table)).run.path == Path("runs/old-again")
    assert ask("text.txt", out="here").run.path == Path("here")


def test_a_run_that_goes_on_keeps_its_settings():
    run = make_run("r", "model.n_layer=3", "train.steps=10")
    for request in (ask("r", resume=True), ask(out="r", resume=True), ask("text.txt", out="r", resume=True)):
        assert (request.run.path, request.resumes, request.changed) == (run, True, {})
        assert request.settings.model.n_layer == 3
    longer = ask("r", resume=True, overrides=["train.steps=20", "model.n_layer=3"])
    assert longer.settings.train.steps == 20
    assert longer.changed == {"train.steps": (10, 20)}


def test_a_preset_that_a_run_was_made_with_changes_nothing():
    request = ask("text.txt", out="r", preset_name="quickstart")
    write("r/run.toml", dump_toml(request.settings))
    RunDirectory(Path("r")).write_mark("pretrain")
    again = ask("text.txt", out="r", preset_name="quickstart", resume=True)
    assert again.changed == {}
    assert again.settings == request.settings


def test_a_path_written_in_another_way_is_the_same_text():
    make_run("r")
    for name in ("./text.txt", str(Path("text.txt").absolute())):
        assert ask(name, out="r", resume=True).settings.run.corpus == ["text.txt"]
    with pytest.raises(CompatibilityError, match="other data"):
        ask("other.txt", out="r", resume=True)


def test_the_same_files_in_another_order_or_by_a_glob_are_the_same_text():
    for name in ("a.txt", "b.txt", "c.txt"):
        write(f"parts/{name}", "some text")
    make_run("r", 'run.corpus=["parts/a.txt", "parts/b.txt"]')
    for names in (["parts/b.txt", "parts/a.txt"], ["parts/[ab].txt"]):
        assert ask(*names, out="r", resume=True).changed == {}
    for names in (["parts"], ["parts/a.txt"], ["parts/a.txt", "gone.txt"]):
        with pytest.raises(CompatibilityError, match="other data"):
            ask(*names, out="r", resume=True)
    make_run("weighted", 'run.corpus=["parts/a.txt", "parts/b.txt"]', "data.weights=[1, 2]")
    with pytest.raises(CompatibilityError, match="other data"):
        ask("parts/b.txt", "parts/a.txt", out="weighted", resume=True)


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (["model.n_layer=4"], CompatibilityError, "model.n_layer = 4 (the run has 6)"),
        (["optim.lr=0.5", "data.valid_ratio=0.3"], CompatibilityError, "data.valid_ratio = 0.3"),
        (["optim.name=adamw"], CompatibilityError, "optim.name = 'adamw' (the run has 'muon')"),
        (["train.stepz=4"], ConfigError, "Did you mean train.steps?"),
        (["train.steps=none"], ConfigError, "train.steps"),
        (["model.d_heads=4"], ConfigError, "Did you mean model.d_head?"),
    ],
)
def test_what_a_resume_cannot_change(overrides: list[str], error: type[FirstlightError], says: str):
    make_run("r")
    with pytest.raises(error) as caught:
        ask("r", resume=True, overrides=overrides)
    assert says in caught.value.message


def test_settings_that_only_fit_the_run_are_no_error_of_their_own():
    # gpt2's dropout has no place in the default family, which the words alone would mean.
    make_run("r", "model.family=gpt2", "model.dropout=0.1")
    assert ask("r", resume=True, overrides=["model.dropout=0.1"]).changed == {}


def test_a_run_that_was_cut_off_while_it_prepared_starts_again():
    Path("r").mkdir()
    Path("r/.lock").touch()
    assert not ask("text.txt", out="r", resume=True).resumes, "killed between the lock and the mark"
    RunDirectory(Path("r")).write_mark("pretrain")
    make_store("r/data")
    write("r/tensorboard/events.out", "")
    for name in ("tokenizer.json", "tokenizer_config.json", "origin.json", ".firstlight-part-x-1-01234567"):
        write(f"r/tokenizer/{name}", "{}")
    Path("r/.firstlight-part-data-9-01234567").mkdir()
    assert not ask("text.txt", out="r", resume=True).resumes
    assert not ask("text.txt", out="r").resumes
    with pytest.raises(UsageError, match="ended while its data was prepared.*with its corpus and --resume"):
        ask("r", resume=True)


@pytest.mark.parametrize(
    "held", ["data/mine.txt", "tokenizer/mine.txt", "checkpoints/step-1/x", "notes.txt", "tokenizer", "data"]
)
def test_a_folder_of_other_things_is_left_alone(held: str):
    write(f"r/{held}", "precious")
    for resume in (False, True):
        with pytest.raises(UsageError, match="exists and is not a run directory"):
            ask("text.txt", out="r", resume=resume)


def test_an_empty_folder_may_become_a_run():
    Path("r").mkdir()
    assert ask("text.txt", out="r").run.path == Path("r")


def test_a_folder_of_texts_with_a_folder_named_data_is_a_corpus():
    write("books/data/one.txt", "text")
    assert ask("books", out="r").settings.run.corpus == ["books"]


def test_an_error_in_a_file_names_the_file_and_one_in_a_word_does_not():
    write("my.toml", '[run]\ncorpus = ["text.txt"]\n[model]\nn_layer = "two"\n')
    with pytest.raises(ConfigError, match=r"^my.toml: model.n_layer: .*found 'two'"):
        ask("my.toml")
    with pytest.raises(ConfigError, match=r"^model.n_layer: .*found 'three'"):
        ask("my.toml", overrides=["model.n_layer=three"])


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["train.convergence.evaluations=2", "train.eval_every=0"], "train.convergence.evaluations"),
        (["train.convergence.evaluations=2", "optim.schedule.name=linear"], "optim.schedule.name"),
        (["train.convergence.evaluations=2", "optim.schedule.warmup_ratio=0.1"], "optim.schedule.warmup_ratio"),
    ],
)
def test_a_run_without_an_end_is_told_before_anything_is_read(words: list[str], key: str):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        ask("text.txt", overrides=words)
    ask("text.txt", overrides=[*words, "train.minutes=1", "train.eval_every=10"])


def test_the_toml_of_a_run_is_that_run_again():
    first = ask(
        "text.txt", out="r", overrides=["model.n_layer=3", "optim.name=adamw", "optim.betas=[0.8,0.9]"]
    ).settings
    RunDirectory(Path("r")).path.mkdir()
    RunDirectory(Path("r")).write_settings(first, "", unused_of_kind("text"))
    assert ask("r/run.toml").settings == first == PretrainSettings.model_validate(first.model_dump())


def test_a_run_in_another_place_goes_on_by_its_path():
    make_run("a/b/r")
    shutil.move("a/b/r", "moved")
    assert ask("moved", resume=True).run.path == Path("moved")
    assert ask("moved", out="./moved", resume=True).run.path == Path("moved")
