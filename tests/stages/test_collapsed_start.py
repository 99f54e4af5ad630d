"""A start after which the model answers every row alike is reported, or given up for another head."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from firstlight.errors import UsageError
from firstlight.finetuning import EncodedExample, Prediction, TaskHead, constant_prediction
from firstlight.lm import LM
from firstlight.runs import RunDirectory
from firstlight.stages import collapsed_start
from firstlight.stages.finetune import FinetuneResult, finetune
from small_task import model, spec, tokenizer, write_task

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
SETTINGS = ["train.epochs=4", "finetune.batch_size=16", "train.trackers=[]", "train.log_every=1", "hardware.threads=1"]


def rows(*labels: object) -> list[EncodedExample]:
    return [EncodedExample((np.zeros(3, np.int32),), (2,), label, f"x:{i}") for i, label in enumerate(labels)]  # type: ignore[arg-type]


def answers(labels: list[object], loss: float) -> list[Prediction]:
    return [Prediction(label, np.array([0.5]), loss) for label in labels]  # type: ignore[arg-type]


def test_one_class_and_a_loss_no_better_than_frequencies() -> None:
    task, train, valid = spec(), rows(*[0, 1] * 6), rows(*[0, 1] * 5)
    assert constant_prediction(task, train, valid, answers([1] * 10, 0.70)) == "b"
    assert constant_prediction(task, train, valid, answers([1] * 10, 0.69)) is None, "ln 2 is 0.693"
    assert constant_prediction(task, train, valid, answers([1] * 9 + [0], 2.0)) is None
    assert constant_prediction(task, train, rows(*[1] * 10), answers([1] * 10, 2.0)) is None, "the labels are one"
    assert constant_prediction(task, train, valid[:9], answers([1] * 9, 0.70)) is None, "so few are alike by chance"
    assert constant_prediction(task, train, [], []) is None


def test_scores_without_spread() -> None:
    task, train, valid = spec("regression"), rows(0.0, 1.0), rows(*[0.0, 1.0] * 5)
    assert constant_prediction(task, train, valid, answers([0.5, 0.501] * 5, 0.26)) == pytest.approx(0.5005)
    assert constant_prediction(task, train, valid, answers([0.5, 0.501] * 5, 0.24)) is None, "the variance is 0.25"
    assert constant_prediction(task, train, valid, answers([0.4, 0.6] * 5, 0.26)) is None


def test_words_and_answers() -> None:
    words = spec("token_classification")
    valid = rows(*[(0, 1), (1, 1, 0), ()] * 2)
    assert constant_prediction(words, valid, valid, answers([(1, 1), (1, 1, 1), ()] * 2, 9.0)) == "b"
    assert constant_prediction(words, valid, valid, answers([(1, 1), (1, 1, 0), ()] * 2, 9.0)) is None
    choice, valid = spec("multiple_choice"), rows(*[0, 1] * 5)
    for row in valid:
        object.__setattr__(row, "choices", (0, 1))
    assert constant_prediction(choice, valid, valid, answers([0] * 10, 0.70)) == 0
    assert constant_prediction(choice, valid, valid, answers([0] * 10, 0.69)) is None


def test_heads_without_a_constant_loss_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of kinds from other packages, whose labels may be anything."""
    monkeypatch.setattr("firstlight.finetuning.kinds.heads.ClassificationHead.constant_loss", TaskHead.constant_loss)
    valid = rows(*["x", "y"] * 5)
    assert constant_prediction(spec(), valid, valid, answers(["x"] * 10, 9.0)) is None


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collapsed_start, "_MIN_UPDATES", 1)
    write_task(tmp_path)
    words = tokenizer()
    LM(model(words.vocab_size), words).save(tmp_path / "model")
    return tmp_path


@pytest.fixture
def collapses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the first starts collapse, as many as the first number says; the second counts the evaluations looked at."""
    plan, real = [0, 0], collapsed_start.StartCheck._constant_prediction

    def fake(self, evaluation):  # noqa: ANN001, ANN202
        plan[1] += 1
        begun = len(collapsed_start.collapsed_starts(self.run))
        return ("mood", "bad") if begun < plan[0] else real(self, evaluation)

    monkeypatch.setattr(collapsed_start.StartCheck, "_constant_prediction", fake)
    return plan


def tune(out: str, *more: str, resume: bool = False) -> FinetuneResult:
    return finetune("model", ["mood.toml"], out=out, resume=resume, overrides=[*SETTINGS, *more])


def weights(run: str) -> dict[str, torch.Tensor]:
    checkpoint = RunDirectory(Path(run)).checkpoints / "step-00000020"
    return load_file(checkpoint / "model.safetensors")


def test_it_is_reported_once(start: Path, collapses: list[int]) -> None:
    collapses[0] = 1
    tune("run")
    events = [json.loads(line) for line in (start / "run/events.jsonl").read_text().splitlines()]
    found = [e for e in events if e["kind"] == "collapsed"]
    assert [e["step"] for e in found] == [5]
    assert "after 5 of 20 updates 'bad' is predicted for every validation row of mood" in found[0]["text"]
    assert "max_restarts=3" in found[0]["text"]
    assert not RunDirectory(start / "run").collapsed_starts_file.exists()


def test_a_start_that_recovers_is_said_to(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [("mood", "bad"), ("mood", "bad"), None, None]
    monkeypatch.setattr(collapsed_start.StartCheck, "_constant_prediction", lambda *_: answers.pop(0))
    tune("run", "train.eval_every=3")
    events = [json.loads(line) for line in (start / "run/events.jsonl").read_text().splitlines()]
    assert [(e["kind"], e["step"]) for e in events] == [("collapsed", 6), ("recovered", 12)]
    assert len(answers) == 1, "from then on it is not looked for"


def test_a_head_has_fifty_updates_to_move(start: Path, collapses: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapsed_start, "_MIN_UPDATES", 50)
    collapses[0] = 1
    tune("run")
    assert collapses[1] == 0, "of 20 updates"


def test_another_head_is_drawn(start: Path, collapses: list[int], caplog: pytest.LogCaptureFixture) -> None:
    collapses[0] = 2
    result = tune("run", "finetune.max_restarts=3", "train.keep_last=9", "finetune.pool=last")
    assert result.finished and result.step == 20
    starts = json.loads((start / "run/collapsed.json").read_text())["starts"]
    assert [s["head_seed"] for s in starts] == [1337, 2337]
    assert (start / "run/before-restart-1/checkpoints").is_dir() and (start / "run/before-restart-2").is_dir()
    assert "restart 1 of at most 3" in caplog.text
    notes = json.loads((start / "run/evaluation.json").read_text())["notes"]["mood"]
    assert [n for n in notes if "given up after 5 updates" in n and "seed 3337" in n]
    # The same head; order and dropout are of another seed.
    tune("other", "run.seed=3337", "train.keep_last=9", "finetune.pool=last")
    first = load_file(RunDirectory(start / "run").checkpoints / "step-00000000" / "model.safetensors")
    same = load_file(RunDirectory(start / "other").checkpoints / "step-00000000" / "model.safetensors")
    head = next(name for name in first if "score" in name or "heads" in name)
    assert torch.equal(first[head], same[head])


def test_restarts_come_to_an_end(start: Path, collapses: list[int]) -> None:
    collapses[0] = 9
    assert tune("run", "finetune.max_restarts=1").finished
    events = (start / "run/events.jsonl").read_text()
    assert "2 starts in a row" in events
    with pytest.raises(UsageError):
        tune("bad", "finetune.max_restarts=-1")


@pytest.mark.parametrize("place", ["recorded", "moved"])
def test_a_process_killed_between_two_starts_goes_on(
    start: Path, collapses: list[int], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as a run that was not killed."""
    collapses[0] = 1
    tune("whole", "finetune.max_restarts=1")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if place == "recorded":
            patch.setattr("firstlight.stages.finetune.progress.warn", kill)
        else:
            patch.setattr(
                "firstlight.runs.orchestrator.move_training_aside", lambda run: (run.move_training_aside(), kill())
            )
        tune("killed", "finetune.max_restarts=1")
    result = tune("killed", "finetune.max_restarts=1", resume=True)
    assert result.finished and result.step == 20
    whole, killed = weights("whole"), weights("killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert len(json.loads((start / "killed/collapsed.json").read_text())["starts"]) == 1


def test_a_file_of_settings_starts_its_own_run_again(start: Path, collapses: list[int]) -> None:
    tune("run", "finetune.max_restarts=2", "hardware.device=cpu")
    before = (start / "run/state.json").read_bytes()
    collapses[:] = [1, 0]
    assert finetune("run/run.toml").run == Path("runs/run-again")
    assert Path("runs/run-again/before-restart-1").is_dir()
    assert (start / "run/state.json").read_bytes() == before and not (start / "run/before-restart-1").exists()


def test_a_run_that_was_stopped_before_it_collapsed_draws_another_head(start: Path, collapses: list[int]) -> None:
    """Its first checkpoint has the head that is given up, and must not be what the next start begins with."""
    collapses[0] = 1
    more = ["finetune.max_restarts=2", "finetune.pool=last", "train.keep_last=9"]
    tune("whole", *more)
    tune("run", *more, "train.stop_after=3")
    assert tune("run", *more, "train.stop_after=0", resume=True).finished
    whole, run = weights("whole"), weights("run")
    assert all(torch.equal(whole[name], run[name]) for name in whole)


def test_a_head_that_is_not_new_is_kept(start: Path, collapses: list[int]) -> None:
    tune("first", "finetune.pool=last")
    collapses[:] = [9, 0]
    assert finetune("first", ["mood.toml"], out="second", overrides=[*SETTINGS, "finetune.max_restarts=3"]).finished
    assert collapses[1] and not (start / "second/collapsed.json").exists()
    (table,) = json.loads((start / "second/tasks.json").read_text())
    assert table["pool"] == "last", "what the head has learned to read"


@pytest.mark.parametrize("kind", ["mood", "words"])
def test_a_run_from_before_these_settings_is_resumed_again_and_again(start: Path, kind: str) -> None:
    rows = [json.dumps({"w": ["the", "day"], "l": ["a", "b"]})] * 12
    Path("words.jsonl").write_text("\n".join(rows) + "\n")
    Path("words.toml").write_text(
        'kind = "token_classification"\n[data]\ntrain = "words.jsonl"\n[columns]\ntokens = "w"\nlabel = "l"\n'
    )
    pool = ["finetune.pool=last"] if kind == "mood" else []
    finetune("model", [f"{kind}.toml"], out="run", overrides=[*SETTINGS, *pool, "train.stop_after=1"])
    settings = [x for x in Path("run/run.toml").read_text().splitlines() if "max_restarts" not in x and "pool" not in x]
    Path("run/run.toml").write_text("\n".join(settings) + "\n")
    (table,) = json.loads(Path("run/tasks.json").read_text())
    table.pop("pool")
    Path("run/tasks.json").write_text(json.dumps([table]))
    for path in (Path("run/contract.json"), *Path("run/checkpoints").glob("*/trainer/*.json")):
        record = json.loads(path.read_text())
        if isinstance(record, dict) and "fixed_settings" in record:
            record["fixed_settings"].pop("finetune.pool", None)
            record.pop("collapsed_starts")
            path.write_text(json.dumps(record))
    for last in (2, 3):
        assert finetune("run", resume=True, overrides=[f"train.stop_after={last}"]).step == last
    (table,) = json.loads((start / "run/tasks.json").read_text())
    assert table["pool"] == "last" or kind == "words"
