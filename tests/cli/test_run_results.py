"""The end of a run says which evaluation was the last and which the best, and what commands use."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from small_world import RUN_SETTINGS, Call

from firstlight.cli.finetune import _print_finetuned
from firstlight.cli.output import print_evaluations
from firstlight.runs import RunResult
from firstlight.stages.finetune import FinetuneResult


def result(**fields: object) -> RunResult:
    known = {"run": Path("r"), "stopped_by": "steps", "finished": True, "step": 20, "seconds": 1.0, "report": None}
    return RunResult(**{**known, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("best", "last", "lines"),
    [
        (
            {"step": 8, "loss": 1.0},
            {"step": 20, "loss": 2.5},
            [
                "last evaluation: step 20, validation loss 2.5000, 3.6 bits",
                "best evaluation: step 8, validation loss 1.0000; generate uses this checkpoint; the last one is r@20",
            ],
        ),
        (
            {"step": 20, "loss": 1.0},
            {"step": 20, "loss": 1.0},
            [
                "last evaluation: step 20, validation loss 1.0000, 3.6 bits",
                "best evaluation: step 20, validation loss 1.0000; generate uses this checkpoint",
            ],
        ),
        (
            {"step": 8, "accuracy": 0.75},
            {"step": 16, "accuracy": 0.5, "loss": 0.7},
            [
                "last evaluation: step 16, validation accuracy 0.5000, validation loss 0.7000, 3.6 bits",
                "best evaluation: step 8, validation accuracy 0.7500; generate uses this checkpoint; the last one is "
                "r@20",
            ],
        ),
        (None, None, ["no evaluation has selected a best checkpoint; generate uses the latest one"]),
    ],
)
def test_best_and_last(
    best: dict[str, int | float] | None,
    last: dict[str, int | float] | None,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
):
    print_evaluations(result(best=best, last=last), "generate uses", ", 3.6 bits")
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("best", "commands"),
    [({"step": 8, "loss": 1.0}, "; generate uses"), ({"step": 8, "accuracy": 0.7}, "; predict and generate use")],
)
def test_only_a_labelled_task_is_for_predict(
    best: dict[str, int | float], commands: str, capsys: pytest.CaptureFixture[str]
):
    run = result(best=best, last=best)
    _print_finetuned(FinetuneResult(**asdict(run), valid={}, test={}, forgetting=None))
    assert commands in capsys.readouterr().out


def test_a_run_says_it_and_generate_uses_it(world: Path, call: Call):
    settings = [*RUN_SETTINGS, "train.steps=12", "optim.lr=0.5", "optim.schedule.name=constant"]
    answer = call("pretrain", "text.txt", "--out", "new", *settings)
    best = (world / "new" / "best").read_text(encoding="utf-8").strip()
    step = int(best.removeprefix("step-"))
    assert f"best evaluation: step {step}, validation loss " in answer.out
    assert "last evaluation: step 12, validation loss " in answer.out
    assert "generate uses this checkpoint" in answer.out
    assert ("new@12" in answer.out) is (step != 12)


def test_a_finished_run_says_it_again(world: Path, call: Call):
    first = call("pretrain", "text.txt", "--out", "new", *RUN_SETTINGS)
    again = call("pretrain", "new", "--resume")
    assert (again.code, again.out) == (0, first.out)
    state = world / "new" / "state.json"
    table = json.loads(state.read_text(encoding="utf-8"))
    for name in ("best", "last"):  # as an earlier version wrote it
        del table["result"][name]
    state.write_text(json.dumps(table), encoding="utf-8")
    assert "best checkpoint: step-0000000" in call("pretrain", "new", "--resume").out


def test_a_model_no_better_than_frequencies_is_pointed_out(world: Path, call: Call):
    answer = call("pretrain", "text.txt", "--out", "new", *RUN_SETTINGS, "optim.lr=1e-9")
    warnings = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "is not below" in warnings[0]
    assert "unigram baseline" in warnings[0]
