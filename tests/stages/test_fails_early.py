"""What can fail early is checked before any text is read: files of words, trackers, libraries, places to write."""

from pathlib import Path

import pytest

import firstlight
from firstlight.convert.formats import get_exporter
from firstlight.errors import MissingExtra, StorageError, TokenizerError, UsageError
from firstlight.files import check_output
from firstlight.train import trackers


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("one two three\n" * 50, encoding="utf-8")
    monkeypatch.setattr("firstlight.stages.artifacts.prepare_store", lambda *_, **__: pytest.fail("read the text"))


@pytest.mark.parametrize("key", ["model.embeddings", "tokenizer.vocab_source"])
def test_files_of_words_are_there(key: str) -> None:
    Path("good.vec").write_text("one 1 2\n", encoding="utf-8")
    kind = ["tokenizer.kind=word"] if key.startswith("tokenizer") else []
    with pytest.raises(UsageError, match=rf"{key}: no such file .*Did you mean good.vec"):
        firstlight.pretrain("text.txt", out="run", overrides=[*kind, f"{key}=goood.vec"])
    with pytest.raises(TokenizerError, match="text.txt:1: is not a file of word vectors"):
        firstlight.pretrain("text.txt", out="run", overrides=[*kind, f"{key}=text.txt"])
    assert not Path("run").exists()


def test_a_tracker_that_is_named_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda _: False)
    with pytest.raises(MissingExtra, match="TensorBoard"):
        firstlight.pretrain("text.txt", out="run", overrides=['train.trackers=["tensorboard"]'])
    trackers.check_installed("auto")
    trackers.check_installed([])


def test_an_exporter_has_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstlight.convert.formats.is_installed", lambda _: False)
    for name in ("onnx", "gguf"):
        with pytest.raises(MissingExtra, match="writing"):
            get_exporter(name).check(Path("out"))
    get_exporter("hf").check(Path("out"))


def test_a_place_that_cannot_hold_a_file() -> None:
    with pytest.raises(StorageError, match="a file exists where a folder is needed"):
        check_output(Path("text.txt/more/out.json"))
    check_output(Path("new/folder/out.json"))
