"""A folder with a text, a tokenizer, a store and a run in it, and a way to call the command line in this process."""

import shutil
import sys
from pathlib import Path

import pytest
from small_world import CHARACTERS, RUN_SETTINGS, Answer, Call, some_text

from firstlight.cli.app import run

# The tiny models of that room.
sys.path.insert(0, str(Path(__file__).parents[1] / "lm"))


@pytest.fixture(autouse=True)
def _as_it_was(torch_as_it_was: None) -> None:
    """Every test here calls commands."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make, once, what ``world`` copies."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text(some_text(), encoding="utf-8")
    text = str(folder / "text.txt")
    assert run(["tokenizer", "train", text, "--out", str(folder / "chars"), *CHARACTERS]) == 0
    assert run(["data", "prepare", text, "--out", str(folder / "store"), "tokenizer.kind=byte"]) == 0
    assert run(["pretrain", text, "--out", str(folder / "run"), *RUN_SETTINGS]) == 0
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: text.txt, a tokenizer ``chars``, a byte-level ``store`` and a ``run`` on it."""
    folder = tmp_path / "world"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run words as a command line."""

    def _call(*words: str) -> Answer:
        capsys.readouterr()
        code = run(words)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return _call
