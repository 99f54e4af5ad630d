"""The contract of task kinds: every entry of the table reads, encodes, learns, predicts and measures as it declares."""

import json
import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from firstlight.errors import ConfigError
from firstlight.finetuning import (
    KINDS,
    EncodedExample,
    Prediction,
    Preprocessor,
    TaskData,
    TaskLoss,
    collate,
    compute_metrics,
    format_label,
    format_prediction,
    head_of,
    load_task,
    predict,
    read_spec,
    special_tokens,
)
from firstlight.finetuning.loss import lm_loss
from firstlight.model import GPT, ModelConfig
from firstlight.parallel import HardwareSettings, resolve_hardware
from firstlight.tokenizer import Tokenizer, TokenizerSettings, train
from firstlight.types import Document

USER, ASSISTANT = {"role": "user", "content": "the day"}, {"role": "assistant", "content": "was fine"}
RECORDS = [
    {
        "text": f"the {word} film" + " so" * (i % 3),
        "text2": f"a {word} day",
        "class": ("bad", "good")[i % 2],
        "score": i / 2,
        "answers": ["was grim", "was fine", "was it"][: 2 + i % 2],
        "answer": i % 2,
        "words": ["the", word, "film"][: 2 + i % 2],
        "tags": ["D", "N", "A"][: 2 + i % 2],
        "messages": [USER, ASSISTANT, {"role": "user", "content": word}, ASSISTANT][: 2 + 2 * (i % 2)],
    }
    for i, word in enumerate(["fine", "grim", "lovely", "cold", "warm", "flat"])
]
# Columns of each kind, and the column with the label as format_label returns it. A new kind needs an entry.
COLUMNS: dict[str, tuple[dict[str, str], str | None]] = {
    "classification": ({"text": "text", "label": "class"}, "class"),
    "pair": ({"text": "text", "text2": "text2", "label": "class"}, "class"),
    "regression": ({"text": "text", "label": "score"}, "score"),
    "similarity": ({"text": "text", "text2": "text2", "label": "score"}, "score"),
    "multiple_choice": ({"question": "text", "choices": "answers", "label": "answer"}, "answer"),
    "token_classification": ({"tokens": "words", "label": "tags"}, "tags"),
    "text": ({"text": "text"}, None),
    "chat": ({"messages": "messages"}, None),
}
WITH_HEAD = [name for name, kind in KINDS.items() if kind.head is not None]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "\n".join(" ".join([r["text"], r["text2"], *r["answers"], "the day was fine"]) for r in RECORDS) * 20
    return train([Document(text, "x")], TokenizerSettings(vocab_size=280))


def load(folder: Path, kind: str) -> TaskData:
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    columns = "".join(f'{key} = "{column}"\n' for key, column in COLUMNS[kind][0].items())
    toml = f'kind = "{kind}"\n[data]\ntrain = "rows.jsonl"\nvalid = "rows.jsonl"\n[columns]\n{columns}'
    (folder / "t.toml").write_text(toml, encoding="utf-8")
    return load_task(read_spec(folder / "t.toml"), seed=0)


def reads_last(data: TaskData) -> TaskData:
    """A task whose head reads the last token of a text."""
    return replace(data, spec=data.spec.model_copy(update={"pool": "last"}))


def encode(data: TaskData, tokenizer: Tokenizer) -> tuple[Tokenizer, list[EncodedExample]]:
    extended = tokenizer.with_special_tokens(special_tokens([data.spec]))
    return extended, Preprocessor(data.spec, extended, 48)(data.train)


def build(data: TaskData, vocab_size: int) -> GPT:
    config = ModelConfig.model_validate(
        {"family": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 48, "vocab_size": vocab_size}
    )
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(1))
    head = head_of(data.spec)
    if head is not None:
        model.add_head(data.spec.name, head.n_outputs(data.spec))
        torch.nn.init.normal_(model.heads[data.spec.name].weight, std=0.5, generator=torch.Generator().manual_seed(2))
    return model.eval()


def test_every_kind_is_tested_here() -> None:
    assert list(COLUMNS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_round_trip(tmp_path: Path, kind: str, tokenizer: Tokenizer) -> None:
    data = load(tmp_path, kind)
    extended, rows = encode(data, tokenizer)
    names = extended.tokens()
    for record, example, row in zip(RECORDS, data.train, rows, strict=True):
        known = [t for ids in row.sequences for t in ids if names[t] not in special_tokens([data.spec])]
        text = extended.decode(np.array([t for t in known if t != extended.eot_id]))
        assert all(part in text for part in example.texts), "every text is in its sequences, whole"
        column = COLUMNS[kind][1]
        if column is not None:
            assert format_label(data.spec, row.label) == record[column]


@pytest.mark.parametrize("kind", KINDS)
def test_only_targets_have_a_gradient(tmp_path: Path, kind: str, tokenizer: Tokenizer) -> None:
    data = reads_last(load(tmp_path, kind))
    extended, rows = encode(data, tokenizer)
    model, batch, head = build(data, extended.vocab_size), collate(data.spec, rows), head_of(data.spec)
    B, S, T = batch.input_ids.shape
    hidden = torch.randn((B * S, T, 16), generator=torch.Generator().manual_seed(3), requires_grad=True)
    if head is None:
        loss, is_target = lm_loss(model, hidden, batch), batch.lm_weights > 0
    else:
        logits = head.logits(data.spec, model.heads[data.spec.name], hidden, batch, torch.nn.Identity())
        loss, is_target = head.losses(logits, batch).sum(), torch.zeros((B, S, T), dtype=torch.bool)
        for b, row in enumerate(rows):
            for r, position in enumerate(row.positions):
                is_target[b, r if len(row.sequences) > 1 else 0, position] = True
    loss.backward()
    assert hidden.grad is not None
    has_gradient = hidden.grad.abs().sum(-1).view(B, S, T) > 0
    assert torch.equal(has_gradient, is_target)


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_the_loss_is_that_of_a_hand_calculation_in_float64(tmp_path: Path, kind: str, tokenizer: Tokenizer) -> None:
    data = reads_last(load(tmp_path, kind))
    extended, rows = encode(data, tokenizer)
    model, head = build(data, extended.vocab_size), head_of(data.spec)
    assert head is not None
    weight = model.heads[data.spec.name].weight.detach().double().numpy()
    module = TaskLoss(model, {"t": data.spec}, lm_weight=0, dropout=0, class_weights={})
    total, count, _ = module(collate(data.spec, rows))
    expected, n = 0.0, 0
    for row in rows:
        states = []
        for s, ids in enumerate(row.sequences):
            hidden = model.hidden(torch.from_numpy(ids).long()[None])[0].detach().double().numpy()
            read = row.positions if len(row.sequences) == 1 else row.positions[s : s + 1]
            states += [hidden[position] for position in read]
        if kind in ("classification", "pair", "regression", "similarity"):
            states = [np.sum(states, axis=0)]
        logits = np.array([weight @ state for state in states])  # (reads, outputs)
        logits = logits.T if kind == "multiple_choice" else logits
        labels = row.label if isinstance(row.label, tuple) else (row.label,)
        for values, label in zip(logits, labels, strict=True):
            n += 1
            if kind in ("regression", "similarity"):
                expected += (values[0] - label) ** 2
            else:
                expected += np.log(np.exp(values).sum()) - values[label]
    assert count == n
    assert total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_splitting_a_batch_changes_nothing(tmp_path: Path, kind: str, tokenizer: Tokenizer) -> None:
    data = load(tmp_path, kind)
    extended, rows = encode(data, tokenizer)
    model, batch = build(data, extended.vocab_size), collate(data.spec, rows)
    module = TaskLoss(model, {"t": data.spec}, lm_weight=0.5, dropout=0.0, class_weights={}).train()
    model.eval()
    whole, n, *logged = module(batch)
    parts = [module(batch.slice_rows(slice(i, i + 2), CPU)) for i in range(0, len(rows), 2)]
    torch.testing.assert_close(sum(part[0] for part in parts), whole)
    assert sum(part[1] for part in parts) == n == batch.count_targets()[0]
    for name, total in (logged[0] if logged else {}).items():
        torch.testing.assert_close(sum(part[2][name] for part in parts), total)


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_an_oracle_has_perfect_metrics(tmp_path: Path, kind: str, tokenizer: Tokenizer) -> None:
    data = load(tmp_path, kind)
    _, rows = encode(data, tokenizer)
    spec, head = data.spec, head_of(data.spec)
    assert head is not None
    oracle = []
    for row in rows:
        probabilities = np.zeros(0)
        if head.has_probabilities:
            n = len(spec.labels) if head.has_classes else len(row.sequences)
            probabilities = np.eye(n)[list(row.label) if isinstance(row.label, tuple) else row.label]
        oracle.append(Prediction(row.label, probabilities, 0.0))
    found = compute_metrics(spec, rows, oracle, n_bootstrap=20)
    assert found.others.keys() == set(head.reported_metrics(spec)) <= head.metrics.keys() | head.errors.keys()
    assert all(value == pytest.approx(0 if name in head.errors else 1) for name, value in found.others.items())
    assert found.low <= found.value <= found.high + 1e-9
    if found.confusion is not None:
        assert np.trace(found.confusion) == found.n
    if found.calibration is not None:
        assert found.calibration["error"] == pytest.approx(0)


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_predictions_need_no_labels(tmp_path: Path, kind: str, tokenizer: Tokenizer) -> None:
    data = load(tmp_path, kind)
    extended, rows = encode(data, tokenizer)
    model, device_context = build(data, extended.vocab_size), resolve_hardware(HardwareSettings(device="cpu"))
    unlabelled = [EncodedExample(row.sequences, row.positions, None, row.where) for row in rows]
    with_labels, without = (predict(model, data.spec, r, device_context) for r in (rows, unlabelled))
    for one, other in zip(with_labels, without, strict=True):
        assert one.label == other.label and np.array_equal(one.probabilities, other.probabilities)
        assert one.loss >= 0 and math.isnan(other.loss)
        table = format_prediction(data.spec, other)
        assert json.loads(json.dumps(table)) == table and "where" not in table


# A kind from outside: any number of labels per text, by a logit and a binary cross-entropy for each.
MULTI_LABEL = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from firstlight.errors import CorpusError
from firstlight.finetuning.kinds import TaskHead, TaskKind, pooled_states
from firstlight.finetuning.kinds.inputs import TextInput


def subset_accuracy(predicted, true):
    return float((predicted == true).all(-1).mean())


@dataclass(frozen=True)
class MultiLabelHead(TaskHead):
    metrics: ClassVar = {"subset_accuracy": subset_accuracy}

    def read_label(self, value, texts, where):
        return None if value is None else tuple(value.split())

    def fit_labels(self, spec, train, rows):
        labels = spec.labels or sorted({label for raw in train for label in raw.label})
        def encode(raw):
            unknown = set(raw.label) - set(labels)
            if unknown:
                raise CorpusError("has an unknown label", where=raw.where, found=min(unknown))
            return tuple(int(label in raw.label) for label in labels)
        return spec.model_copy(update={"labels": labels}), encode

    def n_outputs(self, spec):
        return len(spec.labels)

    def collate_labels(self, rows):
        n = max(len(row.label or ()) for row in rows)
        return torch.tensor([row.label or (0,) * n for row in rows], dtype=torch.float32)

    def logits(self, spec, head, hidden, batch, dropout):
        return head(dropout(pooled_states(spec, hidden, batch).sum(1)))

    def losses(self, logits, batch, class_weights=None):
        labels = batch.labels if batch.labels.shape[1] else torch.zeros_like(logits)
        return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").sum(-1)

    def predict(self, logits, rows):
        probabilities = logits.sigmoid().cpu().numpy()
        return [(tuple(int(p) for p in row > 0.5), row) for row in probabilities]

    def reported_metrics(self, spec):
        return ["subset_accuracy"]

    def format_label(self, spec, label):
        return [name for name, is_set in zip(spec.labels, label) if is_set]

    def format_prediction(self, spec, prediction):
        return {"labels": self.format_label(spec, prediction.label)}


MULTI_LABEL = TaskKind(TextInput(), MultiLabelHead())
NOT_A_KIND = 3
"""


def firstlight(folder: Path, *loss_args: object, ok: bool = True) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "firstlight", "--trust", *map(str, loss_args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )
    assert not ok or done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_kind_from_outside_is_fine_tuned_and_predicts(tmp_path: Path) -> None:
    (tmp_path / "my_kinds.py").write_text(MULTI_LABEL, encoding="utf-8")
    pieces = {"red": "crimson", "big": "huge", "old": "ancient"}
    rows = []
    for i in range(64):
        labels = [label for j, label in enumerate(pieces) if i >> j & 1]
        rows.append({"text": " ".join(["a", *(pieces[label] for label in labels), "house"]), "label": " ".join(labels)})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "text.txt").write_text("\n".join(row["text"] for row in rows) * 20, encoding="utf-8")
    toml = '[data]\ntrain = "rows.jsonl"\nvalid = "rows.jsonl"\n[columns]\ntext = "text"\nlabel = "label"\n'
    (tmp_path / "tags.toml").write_text(f'kind = "my_kinds:MULTI_LABEL"\n{toml}', encoding="utf-8")
    (tmp_path / "wrong.toml").write_text(f'kind = "my_kinds:NOT_A_KIND"\n{toml}', encoding="utf-8")
    quick = ["train.trackers=[]", "hardware.threads=1", "hardware.device=cpu"]
    shape = ["model.n_layer=2", "model.n_head=2", "model.n_embd=32", "model.block_size=48", "tokenizer.kind=byte"]
    firstlight(
        tmp_path, "pretrain", "text.txt", *shape, *quick, "train.steps=20", "train.batch_tokens=384", "--out", "b"
    )
    tuning = ["optim.lr=5e-3", "train.epochs=20", "finetune.batch_size=16", *quick]
    firstlight(tmp_path, "finetune", "b", "tags.toml", *tuning, "--out", "tags")
    found = json.loads((tmp_path / "tags" / "evaluation.json").read_text(encoding="utf-8"))["tasks"]["tags"]
    assert found["metric"] == "subset_accuracy" and found["value"] > 0.9
    lines = firstlight(tmp_path, "predict", "tags", "rows.jsonl").stdout.splitlines()
    right = [
        sorted(json.loads(line)["labels"]) == sorted(row["label"].split())
        for line, row in zip(lines, rows, strict=True)
    ]
    assert np.mean(right) == pytest.approx(found["value"])
    wrong = firstlight(tmp_path, "finetune", "b", "wrong.toml", "--out", "wrong", ok=False)
    assert wrong.returncode == 2
    assert "wrong.toml: kind: my_kinds:NOT_A_KIND cannot be used as task kind: it is int" in wrong.stderr


def test_settings_are_checked_against_the_kind(tmp_path: Path) -> None:
    text = 'kind = "text"\n{}\n[data]\ntrain = "x.csv"\n[columns]\ntext = "t"\n'
    for line, message in (
        ('metric = "accuracy"', "metric accuracy does not fit a task of kind text"),
        ('class_weights = "balanced"', "class_weights balanced do not fit a task of kind text"),
        ('pool = "mean"', "pool mean does not fit a task of kind text"),
    ):
        (tmp_path / "t.toml").write_text(text.format(line), encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            read_spec(tmp_path / "t.toml")


def test_many_classes_take_little_memory(tmp_path: Path, tokenizer: Tokenizer) -> None:
    names = [f"class{i}" for i in range(3000)]
    (tmp_path / "a.tsv").write_text("label\ttext\n" + "".join(f"{n}\tthe day {n}\n" for n in names), encoding="utf-8")
    toml = tmp_path / "t.toml"
    toml.write_text(
        'kind = "classification"\n[data]\ntrain = "a.tsv"\nvalid = "a.tsv"\n'
        '[columns]\nlabel = "label"\ntext = "text"\n',
        encoding="utf-8",
    )
    spec = load_task(read_spec(toml), seed=0).spec
    rows = [EncodedExample((np.array([i % 256, 1]),), (1,), i, "x") for i in range(3000)]
    confident = [Prediction(i % 100, np.ones(1, dtype=np.float32), 0.5) for i in range(3000)]
    tracemalloc.start()
    try:
        found = compute_metrics(spec, rows, confident)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20, "a matrix of 3,000 classes has 72 MB"
    finally:
        tracemalloc.stop()
    assert found.confusion is None
    assert found.value == pytest.approx(100 / 3000)


def test_predictions_for_metrics_keep_no_probabilities(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for kind in WITH_HEAD:
        data = load(tmp_path, kind)
        extended, rows = encode(data, tokenizer)
        model, device_context = build(data, extended.vocab_size), resolve_hardware(HardwareSettings(device="cpu"))
        whole = predict(model, data.spec, rows, device_context)
        lean = predict(model, data.spec, rows, device_context, confidence_only=True)
        assert all(p.probabilities.size <= max(1, len(r.positions)) for p, r in zip(lean, rows, strict=True))
        assert compute_metrics(data.spec, rows, lean) == compute_metrics(data.spec, rows, whole)
