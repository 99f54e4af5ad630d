"""Several seeds: mean and deviation of those that end, and the reason of those that do not."""

import json
from pathlib import Path

import pytest

from firstlight.errors import TrainingError, UsageError
from firstlight.stages import finetune_seeds
from firstlight.stages.finetune import FinetuneResult


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Replace fine-tuning by a function that scores a tenth of the seed, and fails for the seeds in the set."""
    fails: set[str] = set()

    def finetune(init_from, tasks, *, out, overrides, **options) -> FinetuneResult:
        seed = dict(o.split("=") for o in overrides)["run.seed"]
        if seed in fails:
            raise TrainingError("the loss is not finite", where="step 7")
        table = {"t": {"metric": "accuracy", "value": int(seed) / 10}}
        return FinetuneResult(
            run=out,
            stopped_by="steps",
            finished=True,
            step=9,
            seconds=2.0,
            report=None,
            valid=table,
            test=table,
            forgetting=None,
        )

    monkeypatch.setattr(finetune_seeds, "finetune", finetune)
    return fails


def run(n: int, out: Path, *overrides: str) -> dict:
    out.mkdir(exist_ok=True)
    return finetune_seeds.finetune_seeds(n, "base", ["t.toml"], out=out, overrides=overrides)


def test_mean_and_deviation(failing: set[str], tmp_path: Path) -> None:
    found = run(3, tmp_path / "s")
    assert found["test"]["t"]["mean"] == pytest.approx(0.2)
    assert found["test"]["t"]["deviation"] == pytest.approx(0.1)
    assert found["failed"] == {}


def test_a_seed_that_fails_is_left_out_and_named(failing: set[str], tmp_path: Path) -> None:
    failing.add("2")
    found = run(3, tmp_path / "s")
    assert found["test"]["t"]["values"] == [0.1, 0.3]
    assert found["failed"] == {"seed-2": "step 7: the loss is not finite"}
    assert json.loads((tmp_path / "s" / "seeds.json").read_text())["failed"] == found["failed"]
    failing.update("13")
    with pytest.raises(TrainingError):
        run(3, tmp_path / "all")


@pytest.mark.parametrize("given", ["run.seed=77", "run={seed=77}"])
def test_a_seed_of_its_own_is_refused(given: str, failing: set[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="chosen by --seeds"):
        run(2, tmp_path / "s", given)
