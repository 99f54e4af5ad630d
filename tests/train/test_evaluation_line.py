"""One line stays for each evaluation and each sample, whatever happens to the run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_run import go_on, make_context
from test_periodic import stub_losses

from firstlight import progress
from firstlight.progress import Event
from firstlight.store import TokenStore
from firstlight.train import TrainContext, ValidationResult, fit
from firstlight.train.evaluation_line import evaluation_line, sample_line
from firstlight.train.periodic import shown_loss
from firstlight.types import StepMetrics


@pytest.fixture
def notices() -> Iterator[list[Event]]:
    events: list[Event] = []
    with progress.listen(lambda event: None if event.task else events.append(event)):
        yield events


def shown(events: list[Event]) -> list[str]:
    """Return the lines of evaluations and samples."""
    return [event.text for event in events if event.text.startswith("step ")]


def without_train_loss(lines: list[str]) -> list[str]:
    """Leave out the training loss, which is that of a real step."""
    found = []
    for line in lines:
        head, _, rest = line.partition("train loss ")
        found.append(head + rest.partition(" · ")[2] if rest else line)
    return found


def test_a_line_for_each_evaluation(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch, notices: list[Event]
):
    stub_losses(monkeypatch, [9.0, 3.0, 1.0, 2.0, 2.5])
    ctx = make_context(tmp_path, store, steps=14, eval_every=4)
    result = fit(ctx)
    lines = shown(notices)
    assert without_train_loss(lines) == [
        "step 0: valid loss 9.0000",
        "step 4: valid loss 3.0000 (-6.0000) · best so far",
        "step 8: valid loss 1.0000 (-2.0000) · best so far",
        "step 12: valid loss 2.0000 (+1.0000) · best 1.0000 at step 8",
        "step 14: valid loss 2.5000 (+0.5000) · best 1.0000 at step 8",
    ]
    assert lines[-1].startswith(f"step 14: train loss {result.train_loss:.4f} · ")
    assert result.best_evaluation == {"step": 8, "loss": 1.0}
    assert result.last_evaluation == {"step": 14, "loss": 2.5}


def test_after_a_resume_the_lines_know_what_was_before(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch, notices: list[Event]
):
    stub_losses(monkeypatch, [9.0, 1.0, 2.0, 1.5])
    go_on(make_context(tmp_path, store, steps=12, eval_every=4, stop_after=8))
    notices.clear()
    ctx = make_context(tmp_path, store, steps=12, eval_every=4)
    go_on(ctx)
    assert without_train_loss(shown(notices)) == ["step 12: valid loss 1.5000 (-0.5000) · best 1.0000 at step 4"]


def test_only_the_end_is_evaluated_without_an_interval(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch, notices: list[Event]
):
    stub_losses(monkeypatch, [2.0])
    fit(make_context(tmp_path, store, steps=5, eval_every=0))
    assert without_train_loss(shown(notices)) == ["step 5: valid loss 2.0000 · best so far"]


def test_no_line_without_validation_data(tmp_path: Path, store: TokenStore, notices: list[Event]):
    result = fit(make_context(tmp_path, store, steps=5, eval_every=2, evaluate=None))
    assert shown(notices) == []
    assert (result.best_evaluation, result.last_evaluation) == (None, None)


def test_a_loss_that_is_not_finite_is_a_warning(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch, notices: list[Event]
):
    stub_losses(monkeypatch, [9.0, 3.0, float("nan"), 2.0])
    fit(make_context(tmp_path, store, steps=12, eval_every=4))
    lines = without_train_loss(shown(notices))
    assert lines[2:] == [
        "step 8: valid loss nan · best 3.0000 at step 4",
        "step 12: valid loss 2.0000 · best so far",
    ]
    assert [e.level for e in notices if e.text.startswith("step 8:")] == ["warning"]


def test_the_training_loss_of_tasks_is_without_the_language_model_loss():
    one = StepMetrics(1, 8, 0, 4, 8, 3.0, 0.1, 1.0, 0.1)
    assert shown_loss(one) == 3.0
    assert shown_loss(replace(one, parts={"task_loss": 1.0, "lm_loss": 4.0})) == 1.0
    assert shown_loss(replace(one, parts={"lm_loss": 3.0})) == 3.0


class Scored(ValidationResult):
    """A result whose criterion is minus a metric."""

    @property
    def criterion(self) -> float:
        return -0.8125


def context(tmp_path: Path, store: TokenStore, **changes: Any) -> TrainContext:
    ctx = make_context(tmp_path, store, steps=9)
    ctx.counters.step, ctx.loop.shown_loss = 6, 0.5
    for name, value in changes.items():
        setattr(ctx.counters, name, value)
    return ctx


def test_a_metric_and_the_loss_are_both_said(tmp_path: Path, store: TokenStore):
    ctx = context(tmp_path, store, best_loss=-0.9, best_step=3)
    ctx.criterion = "accuracy"
    line = evaluation_line(ctx, Scored(0.25, None, 10, 0), -0.8)
    assert line == (
        "step 6: train loss 0.5000 · valid accuracy 0.8125 (+0.0125) · valid loss 0.2500 · best 0.9000 at step 3"
    )


def test_averaged_weights(tmp_path: Path, store: TokenStore):
    ctx = context(tmp_path, store, best_loss=1.0, best_step=6)
    line = evaluation_line(ctx, ValidationResult(1.0, None, 10, 0), None, 0.75)
    assert line == (
        "step 6: train loss 0.5000 · valid loss 1.0000 · valid loss of averaged weights 0.7500 · best so far"
    )


def test_samples_at_every_evaluation(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch, notices: list[Event]
):
    def sample() -> str:
        progress.notice("its context slides")
        return "be,\n  or not\nto be"

    stub_losses(monkeypatch, [9.0, 3.0, 1.0])
    ctx = make_context(tmp_path, store, steps=8, eval_every=4, sample=sample, sample_every="auto", sample_prompt="To ")
    fit(ctx)
    assert [e.text for e in notices if "sample" in e.text] == [
        "step 4 sample: To be, or not to be",
        "step 8 sample: To be, or not to be",
    ]
    assert [e.text for e in notices].count("its context slides") == 1


def test_a_sample_is_one_line():
    assert sample_line(3, "", "") == "step 3 sample: empty"
    line = sample_line(3, "", "word " * 100)
    assert line.startswith("step 3 sample: word word")
    assert line.endswith("word …")
    assert len(line) < 190


def test_what_is_shown_changes_no_bit(tmp_path: Path, store: TokenStore):
    import torch

    weights = []
    for n, listens in enumerate((False, True)):
        ctx = make_context(tmp_path / str(n), store, steps=8, eval_every=2, sample=lambda: "x", sample_every="auto")
        with progress.listen(lambda _: None) if listens else progress.each_notice_once(set()):
            fit(ctx)
        weights.append({name: w.clone() for name, w in ctx.state.model.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
