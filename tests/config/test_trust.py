"""Code that only a file names is not imported: in settings, tasks and checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from firstlight.config import load_object, parse_overrides, trust_files, trust_references
from firstlight.errors import CheckpointError, ConfigError
from firstlight.finetuning import read_spec
from firstlight.lm import LM
from firstlight.model import ModelConfig
from firstlight.train import TrainSettings

EVIL = """
from pathlib import Path
Path(__file__).with_name("imported").touch()

class Tracker:
    def __init__(self, run): Path(__file__).with_name("built").touch()
    def log(self, step, metrics): ...
    def close(self): ...
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that leaves a file when it is imported."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "from_a_stranger.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "from_a_stranger", raising=False)
    return folder


def load(name: str) -> object:
    return load_object(name, {"here": len}, kind="function", where="train.trackers")


def test_a_name_from_a_file_is_refused_before_its_module_is_imported(evil: Path) -> None:
    with pytest.raises(ConfigError, match="add --trust") as caught:
        TrainSettings(trackers=["from_a_stranger:Tracker"])
    assert caught.value.where == "train.trackers"
    assert not (evil / "imported").exists()


def test_a_module_that_is_imported_already_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="add --trust"):
        load("shutil:rmtree")
    with pytest.raises(ConfigError, match="add --trust"):
        load("firstlight.files.atomic:os.remove")


def test_what_the_user_names_is_imported_and_nothing_else() -> None:
    parse_overrides(["train.trackers=['string:Template', 'here']", "a.b=string:capwords"])
    assert load("string:Template") and load("string:capwords") and load("here") is len
    trust_references({"deep": [{"er": "string:digits"}]}, 3, None)
    assert load("string:digits") == "0123456789"
    with pytest.raises(ConfigError, match="add --trust"):
        load("string:ascii_letters")


def test_trust_ends_with_its_context() -> None:
    with trust_files():
        assert load("string:hexdigits")
        with trust_files(False):
            assert load("string:hexdigits"), "an inner context does not take trust away"
    with pytest.raises(ConfigError, match="add --trust"):
        load("string:hexdigits")


def test_a_task_file_names_no_code(evil: Path, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(
        'kind = "from_a_stranger:Tracker"\n[data]\ntrain = "t.tsv"\n[columns]\ntext = "a"\nlabel = "b"\n'
    )
    with pytest.raises(ConfigError, match="add --trust"):
        read_spec(tmp_path / "t.toml")
    assert not (evil / "imported").exists()


@pytest.mark.parametrize("part", ["positions", "norm", "mlp"])
def test_a_checkpoint_names_no_code(evil: Path, tmp_path: Path, part: str) -> None:
    config = ModelConfig(n_layer=1, n_head=1, n_embd=8, vocab_size=9, block_size=8)
    table = config.model_dump(mode="json") | {"model_type": "firstlight", part: "from_a_stranger:Tracker"}
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=f"{part}: a file names .* add --trust"):
        LM.load_fp32(tmp_path)
    assert not (evil / "imported").exists()


def test_the_current_folder_is_not_on_the_import_path(tmp_path: Path) -> None:
    for name in ("from_here", "re", "typing", "json", "torch"):  # also in place of a library
        (tmp_path / f"{name}.py").write_text(EVIL)
    (tmp_path / "text.txt").write_text("some text\n" * 50)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-m", "firstlight", "pretrain", "text.txt", "train.trackers=['from_here:Tracker']"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "No module named 'from_here'" in done.stderr
    assert not (tmp_path / "imported").exists()
