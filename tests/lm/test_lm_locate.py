import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from tiny_lm import lm

from firstlight import progress
from firstlight.convert.torch_file import load as load_torch
from firstlight.errors import CheckpointError, MissingExtra, UsageError
from firstlight.files import write_manifest
from firstlight.lm import LM, locate


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    lm("gpt2", "byte").save(folder)
    (folder / "trainer").mkdir()
    (folder / "trainer" / "optimizer.safetensors").write_bytes(b"x" * 100)
    return folder


@pytest.fixture
def run(tmp_path, saved) -> Path:
    """A run with checkpoints at steps 5, 20 and 100; the best is 5, the latest 20."""
    run = tmp_path / "run"
    for step in (5, 20, 100):
        folder = run / "checkpoints" / f"step-{step:08d}"
        shutil.copytree(saved, folder)
        write_manifest(folder, {"step": step})
    (run / "best").write_text("step-00000005\n")
    (run / "latest").write_text("step-00000020\n")
    (run / "run.toml").write_text("")
    return run


def step(found: Path) -> int:
    return int(found.name.removeprefix("step-"))


def test_a_run_means_its_best_checkpoint_else_its_latest_else_its_newest(run):
    assert step(locate(run)) == 5
    (run / "best").unlink()
    assert step(locate(str(run))) == 20
    (run / "latest").unlink()
    assert step(locate(run)) == 100
    huge = run / "checkpoints" / "step-100000000"  # sorts before step-20 as text
    shutil.copytree(locate(run), huge)
    write_manifest(huge, {"step": 100_000_000})
    assert locate(run) == huge
    events: list[progress.Event] = []
    huge.rename(run / "checkpoints" / "step-00000200")
    with progress.listen(events.append):
        assert step(locate(run)) == 100
    assert "of step 100000000, its name says 200: rename it to step-100000000" in events[0].text


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: shutil.rmtree(folder),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"short"),
        lambda folder: (folder / "config.json").unlink(),
    ],
    ids=["gone", "without manifest", "cut manifest", "cut weights", "without config"],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_that_is_said(run, harm):
    harm(run / "checkpoints" / "step-00000005")
    events: list[progress.Event] = []
    with progress.listen(events.append):
        assert step(locate(run)) == 20
    (event,) = events
    assert event.level == "warning"
    assert "step-00000005" in event.text
    assert event.text.endswith("using another checkpoint of the run")


@pytest.mark.parametrize("pointer", [b"", b"\n", b"../..", b"nothere", b"\xff\xfe"])
def test_a_pointer_that_points_nowhere_is_passed_over(run, pointer):
    (run / "best").write_bytes(pointer)
    with progress.listen(lambda event: None):
        assert step(locate(run)) == 20


def test_a_run_without_a_whole_checkpoint_says_how_to_get_one(run):
    for folder in (run / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
    with progress.listen(lambda event: None), pytest.raises(CheckpointError, match="no intact checkpoint.*--restart"):
        locate(run)
    shutil.rmtree(run / "checkpoints")
    with progress.listen(lambda event: None), pytest.raises(CheckpointError, match="no intact checkpoint"):
        locate(run)


def test_a_run_that_has_not_saved_yet_is_not_to_be_trained_again(run):
    shutil.rmtree(run / "checkpoints")
    for name in ("best", "latest"):
        (run / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="has no checkpoint yet.*Wait.*--resume"):
        locate(run)


def test_a_checkpoint_without_its_training_state_is_a_model(run):
    shutil.rmtree(run / "checkpoints" / "step-00000005" / "trainer")
    assert step(locate(run)) == 5
    assert LM.load_fp32(run).source == run / "checkpoints" / "step-00000005"


def test_a_folder_with_config_means_itself(run, saved, monkeypatch):
    assert locate(saved) == saved
    checkpoint = run / "checkpoints" / "step-00000020"
    assert locate(checkpoint) == checkpoint
    monkeypatch.chdir(checkpoint)
    assert locate(".") == Path()
    monkeypatch.setenv("HOME", str(run.parent))
    assert step(locate("~/run")) == 5


def test_what_is_no_model_says_what_is_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    for name in ("empty", "text.txt"):
        with pytest.raises(UsageError, match=r"not a model .*config\.json"):
            locate(tmp_path / name)


def test_an_archive_of_a_run_is_to_be_extracted(tmp_path):
    with zipfile.ZipFile(tmp_path / "run.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run/run.toml", "[run]\n")
    with pytest.raises(UsageError) as caught:
        locate(tmp_path / "run.zip")
    assert caught.value.fix == "Extract it first, and name the folder."
    with pytest.raises(CheckpointError, match="is compressed") as caught:
        load_torch(tmp_path / "run.zip")
    assert "extract it" in str(caught.value)


def test_the_nearest_name_is_told(run):
    with pytest.raises(UsageError, match="no such run or model") as caught:
        locate(run.parent / "rnu")
    assert caught.value.fix == f"Did you mean {run}?"
    with pytest.raises(UsageError, match="no such run or model. Train one, such as: .*firstlight quickstart"):
        locate(run.parent / "something-else")
    with pytest.raises(UsageError, match="no such run or model. Train one, such as: .*firstlight quickstart"):
        locate(run.parent / "not" / "there")


def _hub(monkeypatch, download) -> None:
    module = ModuleType("huggingface_hub")
    module.snapshot_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_a_hub_name_is_fetched_with_the_files_that_are_read(monkeypatch, saved, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(saved)

    _hub(monkeypatch, download)
    assert LM.load_fp32("someone/some-model_1.0").source == saved
    ((name, patterns),) = asked
    assert name == "someone/some-model_1.0"
    assert {"config.json", "*.safetensors", "tokenizer.json", "model.safetensors.index.json"} <= set(patterns)
    assert not any("bin" in pattern or "py" in pattern for pattern in patterns), "no pickles and no code"


@pytest.mark.parametrize("name", ["./a/b", "/a/b", "a/b/c", "a", "../a", "a b/c", "a/", "~a/b"])
def test_what_is_no_hub_name_is_never_asked_for(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    _hub(monkeypatch, lambda *args, **kw: pytest.fail("asked"))
    with pytest.raises(UsageError, match="no such run or model"):
        locate(name)


def test_a_name_below_a_folder_that_is_here_is_never_asked_for(monkeypatch, run):
    monkeypatch.chdir(run.parent.parent)
    _hub(monkeypatch, lambda *args, **kw: pytest.fail("asked"))
    with pytest.raises(UsageError, match="Did you mean"):
        locate(f"{run.parent.name}/runn")


@pytest.mark.parametrize("error", [OSError("no connection"), ValueError("bad"), ConnectionError("refused")])
def test_a_hub_that_gives_nothing_is_one_message(monkeypatch, tmp_path, error):
    monkeypatch.chdir(tmp_path)

    def download(name, allow_patterns):
        raise error

    _hub(monkeypatch, download)
    with pytest.raises(CheckpointError, match="someone/thing: not a folder here, and cannot be downloaded"):
        locate("someone/thing")


def test_the_errors_of_the_hubs_library_are_of_the_kinds_that_are_caught():
    errors = pytest.importorskip("huggingface_hub.errors")
    for name in (
        "RepositoryNotFoundError",
        "GatedRepoError",
        "LocalEntryNotFoundError",
        "HfHubHTTPError",
        "HFValidationError",
    ):
        assert issubclass(getattr(errors, name), OSError | ValueError), name


def test_without_the_hubs_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"runs/mine is not a folder here: .*pip install .*datasets"):
        locate("runs/mine")
