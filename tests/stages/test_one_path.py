"""A string, or a Path, is one path in every function: never taken apart into its letters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import firstlight
from firstlight.errors import FirstlightError
from firstlight.stages import data, finetune_seeds, pretrain, tokenizer, transfer, vectors

TEXT = "the cat sat on a mat and saw one more bird there\n" * 40
SMALL = [
    *("model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16", "tokenizer.kind=byte"),
    *("train.steps=1", "train.batch_tokens=32", "train.micro_batch=2"),
]
DRAW = ("vectors.width=4", "vectors.min_count=1", "vectors.method=glove")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")


@pytest.mark.parametrize("path", ["text.txt", Path("text.txt")], ids=repr)
def test_every_function_takes_one_path(path: Any) -> None:
    assert firstlight.pretrain(path, out="run", overrides=SMALL).finished
    assert pretrain.dry_run(path, overrides=SMALL)
    assert firstlight.quickstart(path, out="quick", overrides=[*SMALL, "train.minutes=0.01"]).finished
    assert firstlight.evaluate("run", path).texts[0].name == "text.txt"
    assert firstlight.prepare(path, out="store", overrides="tokenizer.kind=byte").documents
    assert tokenizer.train(path, out="tokens", overrides="tokenizer.kind=byte").kind == "byte"
    assert len(tokenizer.compare("tokens", path)) == 1
    assert vectors.train(path, out="v.txt", overrides=DRAW).width == 4


TASKS: list[Callable[[], Any]] = [
    lambda: firstlight.finetune("run", "absent.toml", out="tuned"),
    lambda: finetune_seeds.finetune_seeds(1, "run", "absent.toml", out="tuned"),
    lambda: transfer.transfer("run", ["absent.toml", Path("absent2.toml")], out="tuned"),
    lambda: vectors.evaluate("text.txt", pairs="absent.toml"),
]


@pytest.mark.parametrize("call", TASKS)
def test_the_error_names_the_whole_path(call: Callable[[], Any]) -> None:
    firstlight.pretrain("text.txt", out="run", overrides=SMALL)
    Path("text.txt").write_text("a 1 2\nb 3 4\n", encoding="utf-8")
    with pytest.raises(FirstlightError, match="absent"):
        call()


def test_a_single_setting_is_one_setting() -> None:
    assert data.prepare("text.txt", out="store", overrides="tokenizer.kind=char").documents
