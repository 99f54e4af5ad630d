"""The most confident wrong predictions with their texts, and the majority class as a baseline, of every kind."""

import json
from pathlib import Path

import numpy as np
import pytest

from firstlight.finetuning import EncodedExample, Prediction, compute_metrics
from firstlight.lm import LM
from firstlight.stages.finetune import finetune
from firstlight.stages.finetune_evaluation import _decoder
from small_task import model, spec, tokenizer, write_task


def row(label: object, n: int, **more: object) -> EncodedExample:
    sequences = more.pop("sequences", (np.arange(n, dtype=np.int32),))
    return EncodedExample(sequences, more.pop("positions", (n - 1,)), label, f"rows:{n}", **more)  # type: ignore[arg-type]


def decode(ids: np.ndarray) -> str:
    return " ".join(map(str, ids.tolist()))


def test_only_wrong_predictions_the_most_confident_first() -> None:
    task = spec(labels=["bad", "good"])
    rows = [row(0, 1), row(0, 2), row(1, 3), row(0, 4)]
    chosen = [(1, 0.6), (0, 0.51), (0, 0.9), (1, 0.7)]
    predictions = [Prediction(label, np.array([p]), 5.0 - n) for n, (label, p) in enumerate(chosen)]
    found = compute_metrics(task, rows, predictions, train=[row(1, 1)] * 3 + [row(0, 1)], decode=decode)
    assert [(w["where"], w["true"], w["predicted"], w["probability"], w["text"]) for w in found.worst] == [
        ("rows:3", "good", "bad", 0.9, "0 1 2"),
        ("rows:4", "bad", "good", 0.7, "0 1 2 3"),
        ("rows:1", "bad", "good", 0.6, "0"),
    ]
    assert found.majority == {"label": "good", "value": 0.25}
    assert compute_metrics(task, rows, predictions).majority is None


def test_words_are_named_with_their_sentence() -> None:
    task = spec("token_classification", labels=["O", "P"])
    rows = [row((0, 1, 0), 5, positions=(1, 3, 4))]
    predictions = [Prediction((0, 0, 1), np.array([[0.9], [0.6], [0.8]]), 1.0)]
    found = compute_metrics(task, rows, predictions, train=rows, decode=decode)
    assert [(w["word"], w["word_text"], w["true"], w["predicted"], w["probability"]) for w in found.worst] == [
        (3, "4", "O", "P", 0.8),
        (2, "2 3", "P", "O", 0.6),
    ]
    assert found.majority == {"label": "O", "value": pytest.approx(2 / 3)}


def test_the_answer_that_was_chosen_is_shown() -> None:
    sequences = tuple(np.array([9, n], dtype=np.int32) for n in range(2))
    rows = [row(0, 2, sequences=sequences, choices=(0, 2))]
    found = compute_metrics(
        spec("multiple_choice"), rows, [Prediction(2, np.array([0.7]), 1.0)], train=rows, decode=decode
    )
    assert found.worst[0]["text"] == "9 1" and found.majority == {"label": 0, "value": 1.0}


def test_scores_have_their_largest_losses_and_no_majority() -> None:
    task = spec("regression", scale=(0.0, 5.0))
    rows = [row(0.2, 1), row(1.0, 2)]
    predictions = [Prediction(0.4, np.zeros(0), 0.04), Prediction(0.9, np.zeros(0), 0.01)]
    found = compute_metrics(task, rows, predictions, train=rows, decode=decode)
    assert [(w["true"], w["predicted"], w["probability"]) for w in found.worst] == [(1.0, 2.0, None), (5.0, 4.5, None)]
    assert found.majority is None


@pytest.mark.usefixtures("torch_as_it_was")
def test_a_run_writes_them_and_logs_rows_and_both_losses(tmp_path: Path) -> None:
    made = tokenizer()
    LM(model(made.vocab_size), made).save(tmp_path / "base")
    settings = ["train.steps=2", "train.log_every=1", "train.trackers=[]", "hardware.device=cpu", "optim.lr=1e-6"]
    finetune(tmp_path / "base", [write_task(tmp_path, n=8)], out=tmp_path / "run", overrides=settings)
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["rows"] == {"mood": {"train": 8, "valid": 20, "test": 20}}
    texts = {line.split("\t")[1] for line in (tmp_path / "valid.tsv").read_text().splitlines()}
    worst = evaluation["tasks"]["mood"]["worst"]
    assert worst and all(w["text"] in texts and w["true"] != w["predicted"] for w in worst)
    assert evaluation["test"]["mood"]["majority"] == {"label": "bad", "value": 0.5}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    assert len(trained) == 2
    for line in trained:
        assert line["loss"] == pytest.approx(line["task_loss"] + 0.5 * line["lm_loss"], rel=1e-5)
        assert line["rows"] == line["step"] * 16 and line["rows_per_second"] > 0
        assert not {"tokens", "tokens_per_second"} & set(line)


def test_texts_of_a_row_are_separated() -> None:
    marked = tokenizer().with_special_tokens(["<|start|>", "<|delimiter|>"])
    start, delimiter = (marked.token_to_id(name) for name in ("<|start|>", "<|delimiter|>"))
    ids = np.array([start, *marked.encode("the day"), delimiter, *marked.encode(" was fine"), delimiter])
    assert _decoder(marked)(ids) == "the day | was fine"
