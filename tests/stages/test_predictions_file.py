"""predict --out: continued where everything is equal, and refused everywhere else."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import firstlight
from firstlight.errors import ConfigError, CorpusError, UsageError

TEXT = "the cat sat on a mat and saw one more bird there\n" * 40
TINY = ("model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=32", "tokenizer.kind=byte")
ROWS = "glad\ta good day\nsad\ta bad day\nglad\tgood\nsad\tbad\n" * 3
TASK = """name = "mood"
kind = "classification"
[data]
train = "rows.tsv"
valid = "rows.tsv"
header = false
[columns]
label = 0
text = 1
"""
NEW = "".join(f"-\tline number {i}\n" for i in range(6))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    for name, text in (("text.txt", TEXT), ("rows.tsv", ROWS), ("mood.toml", TASK), ("new.tsv", NEW)):
        (folder / name).write_text(text, encoding="utf-8")
    small = [*TINY, "train.steps=1", "train.batch_tokens=64", "train.micro_batch=2"]
    firstlight.pretrain(folder / "text.txt", out=folder / "base", overrides=small)
    for name in ("tuned", "other"):
        settings = ["train.epochs=1", f"run.seed={len(name)}"]
        firstlight.finetune(folder / "base", folder / "mood.toml", out=folder / name, overrides=settings)
    firstlight_predict(folder, folder / "labels.jsonl")
    return folder


def firstlight_predict(
    world: Path, out: Path, *, run: str = "tuned", file: str = "new.tsv", **options: Any
) -> list[Any]:
    return list(firstlight.predict(world / run, world / file, out=out, **options))


@pytest.fixture
def out(world: Path, tmp_path: Path) -> Path:
    for suffix in ("", ".meta.json"):
        shutil.copy(world / f"labels.jsonl{suffix}", tmp_path / f"labels.jsonl{suffix}")
    return tmp_path / "labels.jsonl"


def test_every_row_is_written(out: Path) -> None:
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(line["where"]).name for line in lines] == [f"new.tsv:{n}" for n in range(1, 7)]
    assert all(line["label"] in ("glad", "sad") for line in lines)


def test_what_is_there_is_not_predicted_again(world: Path, out: Path) -> None:
    assert firstlight_predict(world, out) == []


@pytest.mark.parametrize("n_bytes", [0, 20, 300, 301])
@pytest.mark.parametrize("chunk_rows", [1, 2, 4, 512])
def test_an_interrupted_file_is_continued(
    n_bytes: int, chunk_rows: int, world: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firstlight.stages.predict._CHUNK_ROWS", chunk_rows)
    firstlight_predict(world, out, overwrite=True)
    whole = out.read_bytes()
    out.write_bytes(whole[:n_bytes])
    n_written = whole[:n_bytes].count(b"\n")
    assert len(firstlight_predict(world, out)) == 6 - n_written // chunk_rows * chunk_rows
    assert out.read_bytes() == whole
    assert firstlight_predict(world, out) == []
    assert out.read_bytes() == whole
    out.unlink()
    assert len(firstlight_predict(world, out)) == 6
    assert out.read_bytes() == whole


def _other_input(world: Path, _: Path) -> dict[str, Any]:
    (world / "sub").mkdir(exist_ok=True)
    (world / "sub" / "new.tsv").write_text(NEW.replace("line", "row"), encoding="utf-8")
    return {"file": "sub/new.tsv"}


def _no_sidecar(_: Path, out: Path) -> dict[str, Any]:
    Path(f"{out}.meta.json").unlink()
    return {}


def _damaged_sidecar(_: Path, out: Path) -> dict[str, Any]:
    Path(f"{out}.meta.json").write_text("{")
    return {}


def _damaged_line(_: Path, out: Path) -> dict[str, Any]:
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join([*lines[:2], lines[2][9:], *lines[3:]]))
    return {}


def _missing_line(_: Path, out: Path) -> dict[str, Any]:
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join([*lines[:2], *lines[3:]]))
    return {}


def _too_many(_: Path, out: Path) -> dict[str, Any]:
    out.write_text(out.read_text() + out.read_text().splitlines(keepends=True)[-1])
    return {}


CHANGES: list[tuple[Callable[[Path, Path], dict[str, Any]], str]] = [
    (lambda *_: {"run": "other"}, "made from something else .found another model"),
    (lambda *_: {"settings": {"columns": {"text": 0}}}, "made from something else .found another task"),
    (_other_input, "made from something else .found another input"),
    (_no_sidecar, "labels.jsonl: already exists"),
    (_damaged_sidecar, "made from something else"),
    (_damaged_line, "labels.jsonl:3: is not the prediction for its row"),
    (_missing_line, "labels.jsonl:3: is not the prediction for its row"),
    (_too_many, "labels.jsonl:7: is not the prediction for its row .*expected no such line"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda c: getattr(c, "__name__", None))
def test_anything_else_is_refused_and_kept(
    change: Callable[[Path, Path], dict[str, Any]], message: str, world: Path, out: Path
) -> None:
    options = change(world, out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match=message):
        firstlight_predict(world, out, **options)
    assert out.read_bytes() == before
    assert len(firstlight_predict(world, out, overwrite=True, **options)) == 6
    assert len(out.read_text().splitlines()) == 6
    assert firstlight_predict(world, out, **options) == []


def test_metadata_of_something_else_is_kept(world: Path, out: Path) -> None:
    out.unlink()
    Path(f"{out}.meta.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"labels.jsonl.meta.json: already exists"):
        firstlight_predict(world, out)
    assert Path(f"{out}.meta.json").read_text() == '{"mine": 1}'


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_pipe_is_written_through(world: Path, out: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    firstlight_predict(world, pipe)
    reader.join(10)
    assert found[0].count(b"\n") == 6 and not Path(f"{pipe}.meta.json").exists()


@pytest.mark.slow
def test_standard_output(world: Path) -> None:
    words = [sys.executable, "-m", "firstlight", "predict", str(world / "tuned"), str(world / "new.tsv"), "--out", "-"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert len([json.loads(line) for line in told.stdout.splitlines()]) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "mean"}, "pool: applies to fine-tuning"),
        ({"kind": "pair"}, "kind: applies to fine-tuning"),
        ({"name": "other"}, "name: applies to fine-tuning"),
        ({"label_values": ["sad", "glad"]}, "label_values: applies to fine-tuning"),
        ({"data": {"train": "rows.tsv"}}, "data.train: applies to fine-tuning"),
        ({"labels": ["one"]}, "labels: does not fit the model .*found 1 names; expected 2 names, in"),
        ({"data": {"field": "rows"}}, "data.field: applies to json, but the files are tsv"),
    ],
)
def test_a_setting_that_does_not_apply_to_predictions_is_refused(
    world: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        list(firstlight.predict(world / "tuned", world / "new.tsv", settings=settings))


def test_a_file_of_another_format_is_read_with_its_own_settings(world: Path) -> None:
    (world / "new.json").write_text('{"rows": [{"review": "a good day"}]}')
    settings = {"columns": {"text": "review"}, "data": {"field": "rows"}, "labels": ["no", "yes"]}
    (row,) = firstlight.predict(world / "tuned", world / "new.json", settings=settings)
    assert row.values["label"] in ("no", "yes")


@pytest.mark.parametrize("given", ["We had bread. And cheese", "word", "long " * 200, ["We had bread."]])
def test_texts_in_the_place_of_a_table(world: Path, given: Any) -> None:
    with pytest.raises((CorpusError, UsageError), match="Write texts as rows of a table in the task's format"):
        list(firstlight.predict(world / "run", given))


def test_a_table_whose_name_is_misspelt(world: Path) -> None:
    with pytest.raises(CorpusError, match=r"nwe.tsv: no such file. Did you mean .*new.tsv"):
        list(firstlight.predict(world / "run", world / "nwe.tsv"))
