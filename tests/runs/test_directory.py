"""The run directory: its paths, and which other directories are refused."""

from pathlib import Path

import pytest

from firstlight.files import run_layout, write_manifest
from firstlight.runs import RunDirectory, read_json_object


def test_every_name_of_the_layout_has_a_path(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    paths = {getattr(directory, name) for name, value in vars(RunDirectory).items() if isinstance(value, property)}
    names = {value for name, value in vars(run_layout).items() if name.isupper()}
    elsewhere = {run_layout.LOCK, run_layout.LATEST, run_layout.BEST, run_layout.TENSORBOARD}
    assert {p.name for p in paths if isinstance(p, Path)} == names - elsewhere


@pytest.mark.parametrize(
    ("file", "foreign"),
    [
        (".lock", False),
        (".firstlight-part-data-1-01234567", False),
        (".part-data-1-01234567", True),
        (".old-data", True),
        ("tokenizer/tokenizer.json", False),
        ("tokenizer/notes.txt", True),
        ("embeddings/coverage.json", False),
        ("embeddings/mine.txt", True),
        ("tasks.json", False),
        ("before.json", False),
        ("tensorboard/events.out", True),
        ("data/train.bin", True),
        ("thesis.txt", True),
    ],
)
def test_files_of_others_are_recognised(tmp_path: Path, file: str, foreign: bool) -> None:
    path = tmp_path / "r" / file
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert RunDirectory(tmp_path / "r").holds_other_files() is foreign


def test_a_token_store_may_be_there_before_the_settings(tmp_path: Path) -> None:
    (tmp_path / "r" / "data").mkdir(parents=True)
    write_manifest(tmp_path / "r" / "data")
    assert not RunDirectory(tmp_path / "r").holds_other_files()
    assert not RunDirectory(tmp_path / "none").holds_other_files()
    (tmp_path / "file").write_text("")
    assert RunDirectory(tmp_path / "file").holds_other_files()


def test_the_kind_of_a_run(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.kind is None
    directory.settings_file.write_text("[run]\n[finetune]\n")
    assert directory.kind == "finetune", "older runs do not record it"
    directory.settings_file.write_text("[run]\n")
    assert directory.kind == "pretrain"
    directory.write_state(kind="copy", status="running")
    assert directory.kind == "copy"
    directory.state_file.write_text("damaged")
    directory.settings_file.write_text("[")
    assert directory.kind is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", "\\xff"])
def test_files_that_hold_no_object_are_empty(tmp_path: Path, text: str) -> None:
    directory = RunDirectory(tmp_path)
    directory.state_file.write_text(text)
    assert directory.read_state() == {}
    assert read_json_object(directory.initial_loss_file) == {}
