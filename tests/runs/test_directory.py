"""The run directory: its paths, and which other directories are refused."""

import errno
import warnings
from pathlib import Path

import pytest

from firstlight import progress
from firstlight.errors import UsageError
from firstlight.files import run_layout
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
        (".lock-exists", False),
        (".firstlight-part-state.json-1-01234567", False),
        (".part-data-1-01234567", True),
        (".old-data", True),
        ("tokenizer/tokenizer.json", True),
        ("tensorboard/events.out", True),
        ("data/train.bin", True),
        ("thesis.txt", True),
    ],
)
def test_files_of_others_are_recognised(tmp_path: Path, file: str, foreign: bool) -> None:
    path = tmp_path / "r" / file
    path.parent.mkdir(parents=True)
    path.write_text("")
    directory = RunDirectory(tmp_path / "r")
    assert directory.holds_other_files() is foreign
    assert not directory.is_unstarted
    directory.write_mark("pretrain")
    assert not directory.holds_other_files(), "all that is there with the mark is the run's own"
    assert directory.is_unstarted


def test_a_state_of_another_program_is_no_mark(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_state(status="open", jobs=3)
    assert directory.holds_other_files()
    assert not directory.lacks_settings
    assert not RunDirectory(tmp_path / "none").holds_other_files()
    (tmp_path / "file").write_text("")
    assert RunDirectory(tmp_path / "file").holds_other_files()


@pytest.mark.parametrize("left", ["state.json", "checkpoints/step-00000010", "checkpoints/damaged-step-00000010"])
def test_a_run_without_its_settings_is_recognised(tmp_path: Path, left: str) -> None:
    directory = RunDirectory(tmp_path)
    if left == "state.json":
        directory.write_state(kind="pretrain", status="stopped", step=10)
    else:
        (tmp_path / left).mkdir(parents=True)
    assert directory.lacks_settings and directory.has_saved
    assert not directory.is_unstarted


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    import fcntl

    def refuse(fd: int, how: int) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    directory = RunDirectory(tmp_path / "r")
    with warnings.catch_warnings(), progress.listen(lambda event: said.append(event.text)):
        warnings.simplefilter("ignore")  # filelock's own, where it knows the error
        with directory.lock():
            assert directory.is_locked()
            with pytest.raises(UsageError, match="in use by another process"), directory.lock():
                pass
        assert not directory.is_locked()
    assert code == errno.ENOSYS or "has no locks: .lock-exists takes their place" in said[0]


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
