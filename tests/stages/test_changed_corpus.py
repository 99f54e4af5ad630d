"""A run goes on with its token store, and says so where the corpus is not as it was."""

import shutil
from pathlib import Path

import firstlight
from firstlight import progress
from firstlight.config import read_toml
from firstlight.runs import RunDirectory
from firstlight.stages.artifacts import prepare_artifacts
from firstlight.stages.settings import PretrainSettings

SETTINGS = [
    "tokenizer.kind=byte",
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=16",
    "model.block_size=16",
    "train.batch_tokens=64",
    "train.eval_every=100",
    "train.sample_every=0",
    "train.trackers=[]",
    "hardware.threads=1",
]


def resume(run: Path) -> list[str]:
    """Return what is said of the corpus where a run prepares to go on."""
    heard: list[str] = []

    def listener(event: progress.Event) -> None:
        if event.level == "warning" and "not as it was" in event.text:
            heard.append(event.text)

    settings = PretrainSettings.model_validate(read_toml(run / "run.toml"))
    with progress.listen(listener):
        prepare_artifacts(RunDirectory(run), settings, prepared=True)
    return heard


def test_files_that_changed_since_the_store_was_made(tmp_path: Path) -> None:
    books, run = tmp_path / "books", tmp_path / "run"
    books.mkdir()
    (books / "one.txt").write_text("the cat sat on a mat " * 40)
    firstlight.pretrain([str(books)], out=run, overrides=[*SETTINGS, "train.steps=1"])
    (books / "one.txt").touch()
    assert resume(run) == []
    (books / "two.txt").write_text("and saw one more bird " * 40)
    [heard] = resume(run)
    assert str(books) in heard
    assert f"--from {run} --out" in heard
    shutil.rmtree(books)
    assert resume(run) == []
