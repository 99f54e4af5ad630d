"""A loss that is not finite ends fine-tuning, whatever the task, as it ends pre-training."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from firstlight.errors import TrainingError
from firstlight.finetuning import EncodedExample, Prediction, compute_metrics, criterion_name
from firstlight.lm import LM
from firstlight.stages.finetune import finetune
from firstlight.train.loop import _check_finite
from firstlight.train.state import Counters
from small_task import model, spec, tokenizer, write_task

BROKEN = ["optim.lr=1e25", "optim.schedule.warmup_ratio=0", "train.steps=6", "train.trackers=[]", "hardware.device=cpu"]


@pytest.mark.usefixtures("torch_as_it_was")
@pytest.mark.parametrize("kinds", [("mood",), ("text",), ("mood", "text")], ids="-".join)
@pytest.mark.parametrize("preset", ["full", "lora"])
def test_a_run_whose_loss_is_not_finite_fails(kinds: tuple[str, ...], preset: str, tmp_path: Path) -> None:
    made = tokenizer()
    LM(model(made.vocab_size), made).save(tmp_path / "base")
    tasks = {"mood": write_task(tmp_path, n=8), "text": tmp_path / "text.toml"}
    tasks["text"].write_text(
        'kind = "text"\n[data]\ntrain = "train.tsv"\nvalid = "valid.tsv"\n[columns]\ntext = "text"\n'
    )
    with pytest.raises(TrainingError, match="not finite"):
        finetune(tmp_path / "base", [tasks[k] for k in kinds], out=tmp_path / "run", preset=preset, overrides=BROKEN)
    for file in tmp_path.glob("run/*.json"):
        json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert json.loads((tmp_path / "run" / "state.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("kind", ["classification", "regression", "multiple_choice"])
def test_metrics_of_outputs_that_are_not_finite_are_not_finite(kind: str) -> None:
    label = 0.5 if kind == "regression" else 1
    probabilities = np.zeros(0) if kind == "regression" else np.array([math.nan, math.nan])
    rows = [EncodedExample((np.zeros(3, np.int32),), (2,), label, f"x:{i}") for i in range(4)]
    found = compute_metrics(spec(kind), rows, [Prediction(label, probabilities, math.nan)] * 4, n_bootstrap=5)
    assert all(map(math.isnan, (found.loss, found.value, found.low, found.high, *found.others.values())))


def test_a_run_without_a_target_fails() -> None:
    ctx = SimpleNamespace(counters=Counters(step=3), state=SimpleNamespace(scaler=None))
    with pytest.raises(TrainingError, match="trained on nothing"):
        _check_finite(ctx, None, SimpleNamespace(loss=1.0))
    ctx.counters.tokens = 1
    _check_finite(ctx, None, SimpleNamespace(loss=1.0))


def test_what_selects_the_best_checkpoint_has_a_name() -> None:
    score = spec("regression")
    assert criterion_name([spec()]) == "accuracy" and criterion_name([spec(), spec("text")]) == "accuracy"
    assert criterion_name([spec("text"), spec("chat")]) == "loss"
    assert criterion_name([spec(), spec("pair")]) == "mean accuracy"
    assert criterion_name([spec(), score]) == "mean accuracy and pearson"
