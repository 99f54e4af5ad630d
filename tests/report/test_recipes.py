"""The commands of a report fit the run: one that was fine-tuned is resumed by finetune, and labels rows."""

from pathlib import Path

import pytest

from firstlight.report.recipes import recipes
from firstlight.report.run_files import RunFiles


def commands(files: RunFiles) -> str:
    return "\n".join(recipe.code for recipe in recipes(files))


def test_commands_of_a_fine_tuned_run() -> None:
    files = RunFiles(
        Path("my run"),
        settings={"train": {"epochs": 3.0}},
        state={"step": 5},
        tasks=[{"name": "mood", "kind": "classification"}, {"name": "talk", "kind": "chat"}],
        checkpoint="checkpoints/step-5",
        config={"architectures": ["Qwen3ForSequenceClassification"]},
    )
    found = commands(files)
    assert "firstlight finetune run.toml --out '../my run-again'" in found
    assert "firstlight finetune . --resume train.epochs=6" in found
    assert "firstlight predict . rows.tsv --out labels.jsonl" in found
    assert "AutoModelForSequenceClassification.from_pretrained(folder)" in found
    assert "firstlight pretrain" not in found and "verify-resume" not in found


def test_commands_of_a_pre_trained_run() -> None:
    found = commands(RunFiles(Path("r"), state={"step": 5}))
    assert "firstlight pretrain . --resume train.steps=10" in found
    assert "firstlight verify-resume run.toml" in found
    assert "predict" not in found


@pytest.mark.parametrize(
    ("train", "stopped_by", "longer"),
    [
        ({"epochs": 3.0, "steps": 5}, "steps", "train.steps=10"),
        ({"epochs": 3.0}, "epochs", "train.epochs=6"),
        ({"minutes": 1.5}, "minutes", "train.minutes=3"),
        ({"tokens": 1e6}, "tokens", "train.tokens=2000000"),
        ({}, "convergence", None),
    ],
)
def test_a_run_is_made_longer_by_the_limit_that_ended_it(
    train: dict[str, float], stopped_by: str, longer: str | None
) -> None:
    state = {"step": 5, "status": "finished", "stopped_by": stopped_by}
    code = recipes(RunFiles(Path("r"), settings={"train": train}, state=state))[1].code
    assert code.splitlines()[1:] == ([] if longer is None else [f"firstlight pretrain . --resume {longer}"])
