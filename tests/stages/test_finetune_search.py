"""Learning rate and epochs are chosen on the validation rows, within a number of trials."""

import json
from pathlib import Path

import pytest

from firstlight.cli.app import run as command
from firstlight.errors import Interrupted, TrainingError, UsageError
from firstlight.stages import finetune_search
from firstlight.stages.finetune import FinetuneResult
from firstlight.stages.finetune_search import SearchResult, Trial, _next, _values


def scored(scores: dict[tuple[int, int], float]) -> dict[tuple[int, int], Trial]:
    return {place: Trial("run", 1.0, 1.0, score, 1.0) for place, score in scores.items()}


def test_it_climbs_from_the_best() -> None:
    assert _next({}) == (0, 0)
    assert _next(scored({(0, 0): 0.5})) == (1, 0)
    assert _next(scored({(0, 0): 0.5, (1, 0): 0.6})) == (2, 0)
    assert _next(scored({(0, 0): 0.5, (1, 0): 0.6, (2, 0): 0.5})) == (1, 1)
    found = {(0, 0): 0.5, (1, 0): 0.4, (-1, 0): 0.4, (0, 1): 0.4, (0, -1): 0.4}
    assert _next(scored(found)) is None
    assert _next(scored({**found, (0, 1): 0.5})) is None, "the first of equals is the best"


def test_steps_are_factors() -> None:
    first = Trial("run", 1e-3, 3.0, 0.5, 1.0)
    assert _values(first, (0, 0)) == {"optim.lr": 1e-3, "train.epochs": 3.0}
    assert _values(first, (-1, 1)) == pytest.approx({"optim.lr": 1e-3 / 3, "train.epochs": 6.0})


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace fine-tuning by a function of rate and passes that is best at a rate of 3e-3 and 3 passes."""
    calls: list[list[str]] = []

    def finetune(init_from, tasks, *, out, overrides, **options) -> FinetuneResult:
        calls.append(list(overrides))
        values = dict(o.split("=") for o in overrides)
        lr, epochs = float(values.get("optim.lr", 1e-3)), float(values.get("train.epochs", 3))
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.toml").write_text(f"[optim]\nlr = {lr}\n[train]\nepochs = {epochs}\n")
        if lr > options.get("diverges_above", 1.0):
            raise TrainingError("the loss is not finite", where="step 7")
        score = 0.9 - abs(lr - 3e-3) * 10 - abs(epochs - 3) / 100
        table = {"metric": "accuracy", "value": score, "low": 0.0, "high": 1.0, "others": {}, "n": 9}
        table |= {"majority": None, "bag_of_words": None}
        stopped = options.get("stopped_by", "steps")
        return FinetuneResult(
            run=out,
            stopped_by=stopped,
            finished=stopped == "steps",
            step=9,
            seconds=2.0,
            report=None,
            valid={"t": table},
            test={"t": {**table, "value": 0.1}},
            forgetting=None,
            warnings={"t": [f"of rate {lr:g}"]},
        )

    monkeypatch.setattr(finetune_search, "finetune", finetune)
    return calls


def test_it_ends_at_the_best_and_keeps_a_record(fakes: list[list[str]], tmp_path: Path) -> None:
    found = finetune_search.finetune_search(20, "base", ["t.toml"], out=tmp_path / "s", overrides=["run.seed=2"])
    assert found.complete and len(found.trials) == 5
    assert (found.best.lr, found.best.epochs) == pytest.approx((3e-3, 3.0))
    assert found.best.run == str(tmp_path / "s" / "trial-2")
    assert found.test["t"]["value"] == 0.1, "that of the best, which did not choose it"
    assert fakes[0] == ["run.seed=2"], "the first trial has the default settings"
    record = json.loads((tmp_path / "s" / "search.json").read_text())
    assert record["best"] == found.best.run and len(record["trials"]) == 5
    with pytest.raises(UsageError, match="already exists"):
        finetune_search.finetune_search(20, "base", ["t.toml"], out=tmp_path / "s")


def test_the_number_of_trials_is_a_limit(fakes: list[list[str]], tmp_path: Path) -> None:
    found = finetune_search.finetune_search(2, "base", ["t.toml"], out=tmp_path / "s")
    assert len(fakes) == 2 and not found.complete


def test_a_signal_ends_it(fakes: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        finetune_search.finetune_search(2, "base", ["t.toml"], out=tmp_path / "s", stopped_by="SIGTERM")
    assert not (tmp_path / "s" / "search.json").exists()


def test_a_trial_that_diverges_is_the_worst(fakes: list[list[str]], tmp_path: Path) -> None:
    def run(**more: bool) -> SearchResult:
        return finetune_search.finetune_search(4, "base", ["t.toml"], out=tmp_path / "s", diverges_above=2e-3, **more)

    found = run()
    assert [(t.valid is None, t.failed) for t in found.trials][:2] == [
        (False, None),
        (True, "step 7: the loss is not finite"),
    ]
    assert found.best.run.endswith("trial-1") and len(found.trials) == 4
    record = json.loads((tmp_path / "s" / "search.json").read_text())
    assert record["trials"][1]["valid"] is None and "not finite" in record["trials"][1]["failed"]
    fakes.clear()
    assert run(resume=True).trials[1].failed == found.trials[1].failed
    assert len(fakes) == 3, "what failed is not tried again"
    with pytest.raises(TrainingError):
        finetune_search.finetune_search(4, "base", ["t.toml"], out=tmp_path / "other", diverges_above=1e-4)


def test_a_search_does_not_become_smaller(fakes: list[list[str]], tmp_path: Path) -> None:
    finetune_search.finetune_search(3, "base", ["t.toml"], out=tmp_path / "s")
    with pytest.raises(UsageError, match="has 3 trials already"):
        finetune_search.finetune_search(2, "base", ["t.toml"], out=tmp_path / "s", resume=True)
    found = finetune_search.finetune_search(4, "base", ["t.toml"], out=tmp_path / "s", resume=True)
    assert len(found.trials) == 4


def test_epochs_have_a_limit() -> None:
    assert _next(scored({(0, 0): 0.5, (1, 0): 0.4, (-1, 0): 0.4, (0, 1): 0.6})) == (1, 1)
    found = {(0, 0): 0.5, (0, 1): 0.6, (0, 2): 0.7, (1, 2): 0.1, (-1, 2): 0.1}
    assert _next(scored(found)) is None


@pytest.mark.parametrize("key", ["optim.lr", "train.epochs", "train.steps", "train.minutes"])
@pytest.mark.parametrize("written", ["{table}.{key}=1", "{table}={{{key}=1}}"])
def test_what_it_chooses_is_not_given(key: str, written: str, tmp_path: Path) -> None:
    table, _, name = key.partition(".")
    given = written.format(table=table, key=name)
    with pytest.raises(UsageError, match="the search"):
        finetune_search.finetune_search(2, "base", ["t.toml"], out=tmp_path / "s", overrides=[given])
    if key == "train.steps":
        (tmp_path / "run.toml").write_text("[train]\nsteps = 100\n")
        with pytest.raises(UsageError, match="train.steps: limits the updates"):
            finetune_search.finetune_search(2, tmp_path / "run.toml", [], out=tmp_path / "s")


def test_the_command_prints_trials_and_the_best(
    fakes: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "s")
    assert command(["finetune", "base", "t.toml", "--out", out, "--search", "2"]) == 0
    printed = capsys.readouterr()
    assert (
        "trial 1 of at most 2: learning rate 0.001, 3 epochs: accuracy 0.8800 on the validation rows, 2 s; at most 1 "
        "more, of about 0 to 8 s" in printed.err
    )
    assert "t: of rate 0.003" in printed.err and "of rate 0.001" not in printed.err, "warnings of the best alone"
    assert f"best: {out}/trial-2, chosen by the validation rows" in printed.out
    assert command(["finetune", "base", "t.toml", "--search", "2"]) == 2
    assert command(["finetune", "base", "t.toml", "--out", out, "--search", "2", "--seeds", "2"]) == 2


def test_a_file_of_settings_without_a_limit_is_searched(fakes: list[list[str]], tmp_path: Path) -> None:
    """A run writes limits that are off, too."""
    (tmp_path / "run.toml").write_text('[train]\nsteps = "auto"\nepochs = 5.0\n[train.convergence]\nevaluations = 0\n')
    found = finetune_search.finetune_search(2, tmp_path / "run.toml", [], out=tmp_path / "s")
    assert len(found.trials) == 2
