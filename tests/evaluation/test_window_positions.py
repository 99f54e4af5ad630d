"""The loss by position in the window: bins without gaps whose mean is the validation loss, in a run's own file."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import firstlight
from firstlight import progress
from firstlight.evaluation import loss_by_position
from firstlight.tokenizer import Tokenizer


@pytest.mark.parametrize("T", [1, 2, 3, 48, 49, 257, 1024])
def test_bins_cover_every_position_once(T: int):
    nats, targets = np.arange(1.0, T + 1), np.full(T, 2.0)
    found = loss_by_position(nats, targets)
    assert (found[0]["first"], found[-1]["last"]) == (1, T)
    assert all(a["last"] + 1 == b["first"] for a, b in zip(found, found[1:], strict=False))
    assert sum(b["n"] for b in found) == 2 * T
    assert sum(b["n"] * b["loss"] for b in found) == pytest.approx(nats.sum())
    assert len(found) <= 48


def test_positions_without_a_target_are_left_out():
    found = loss_by_position(np.array([4.0, 0.0]), np.array([2.0, 0.0]))
    assert found == [{"first": 1, "last": 1, "loss": 2.0, "n": 2}]


@pytest.mark.usefixtures("torch_as_it_was")
def test_a_run_has_them_and_counts_its_training_text(tmp_path: Path):
    text = "".join(f"宝玉笑道：{n} times.\n" for n in range(400))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    settings = ["tokenizer.kind=char", "model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16"]
    settings += ["train.steps=2", "train.batch_tokens=64", "train.trackers=[]", "hardware.device=cpu"]
    report, pages = tmp_path / "run" / "report.html", list[str]()

    def look(event: progress.Event) -> None:
        if event.task == "train" and event.done == 1:
            pages.append(report.read_text(encoding="utf-8"))

    with progress.listen(look):
        firstlight.pretrain(tmp_path / "a.txt", out=tmp_path / "run", overrides=settings)
    assert "Training was in progress at step 0 when this page was written" in pages[0]
    assert "Training reached its limit of steps" in report.read_text(encoding="utf-8")
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    positions, valid = found["loss_by_position"], found["valid"]
    assert sum(b["n"] for b in positions) == valid["n_tokens"]
    assert sum(b["n"] * b["loss"] for b in positions) / valid["n_tokens"] == pytest.approx(valid["loss"])
    assert positions[-1]["last"] == 16
    counted = found["training_text"]
    manifest = json.loads((tmp_path / "run" / "data" / "manifest.json").read_text())
    split = text.encode()[: manifest["train_bytes"]].decode()
    assert counted["tokens"] == manifest["train_tokens"] and counted["characters"] == len(split)
    expected = Counter(split).most_common(3)
    assert sorted(row["count"] for row in counted["most_frequent"][:3]) == sorted(n for _, n in expected)
    assert next(row["count"] for row in counted["most_frequent"] if row["text"] == "玉") == split.count("玉")
    metrics = firstlight.metrics(tmp_path / "run")
    assert metrics["valid_loss"].steps.tolist() == [0, 2] and metrics["valid_loss"].values[-1] == valid["loss"]
    sample = json.loads((tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert sample["temperature"] == 0.7


def test_characters_and_texts_of_tokens(trained: dict[str, Tokenizer]):
    text = "Déjà vu: 宝玉 naïve 🙂\n"
    for name in ("bpe-gpt2", "byte", "char"):
        tokenizer = trained[name]
        ids = tokenizer.encode(text)
        assert int(tokenizer.character_lengths()[ids].sum()) == len(text), name
        assert int(tokenizer.byte_lengths()[ids].sum()) == len(text.encode()), name
        texts = tokenizer.token_texts()
        assert len(texts) == tokenizer.vocab_size and texts[tokenizer.eot_id] == "<|endoftext|>"
    assert trained["byte"].token_texts()[trained["byte"].encode("é")[0]] == r"\xc3"
    assert math.isclose(trained["byte"].character_lengths().sum(), 128 + 64)
