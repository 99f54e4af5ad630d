"""What is due when: cadence, the best, one write a checkpoint, the time left, and shares of several processes."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import CPU, ROWS, go_on, lines, make_context, write_model

from firstlight import parallel
from firstlight.progress import Event
from firstlight.store import TokenStore
from firstlight.train import (
    CheckpointManager,
    ConvergenceSettings,
    Limits,
    TrainContext,
    ValidationResult,
    fit,
    periodic,
    read_trainer_state,
)
from firstlight.types import Batch, StepMetrics


class Counted:
    """Writes a model, and remembers for which steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        self.steps.append(int(folder.name.split("step-")[1][:8]))
        write_model(folder, weights)


def stub_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    given = iter(losses)
    monkeypatch.setattr("small_run.validate", lambda *_: ValidationResult(next(given), 1.0, 10, 10))


def run_with(tmp_path: Path, store: TokenStore, **kw: Any) -> tuple[TrainContext, list[int]]:
    write = Counted()
    ctx = make_context(tmp_path, store, checkpoints=CheckpointManager(tmp_path, write, kw.pop("keep_last", 2)), **kw)
    fit(ctx)
    return ctx, write.steps


def test_a_checkpoint_that_is_due_twice_is_written_once(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_losses(monkeypatch, [9.0, 2.0, 1.0])
    ctx, written = run_with(tmp_path, store, steps=10, eval_every=5, checkpoint_every=5)
    assert written == [5, 10]
    assert (tmp_path / "best").read_text() == "step-00000010\n"
    assert ctx.counters.best_loss == 1.0


def test_the_best_is_saved_when_it_is_found_and_kept(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_losses(monkeypatch, [9.0, 3.0, 1.0, 2.0, 2.5, 2.0])
    ctx, written = run_with(tmp_path, store, steps=20, eval_every=4, checkpoint_every=0, keep_last=1)
    assert written == [4, 8, 20]
    assert (tmp_path / "best").read_text() == "step-00000008\n"
    assert (tmp_path / "latest").read_text() == "step-00000020\n"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000020"]
    assert (ctx.counters.best_loss, ctx.counters.best_step, ctx.counters.evaluations_without_gain) == (1.0, 8, 3)


def test_the_last_evaluation_may_be_the_best(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_losses(monkeypatch, [9.0, 2.0, 1.0])
    _, written = run_with(tmp_path, store, steps=6, eval_every=4)
    assert written == [4, 6]
    assert (tmp_path / "best").read_text() == "step-00000006\n"


def test_what_the_last_evaluation_found_is_in_the_checkpoint(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_losses(monkeypatch, [9.0, 2.0, 3.0, 1.0])
    run_with(tmp_path, store, steps=6, eval_every=4, checkpoint_every=6)
    counters = read_trainer_state(tmp_path / "checkpoints" / "step-00000006")["counters"]
    assert (counters["best_loss"], counters["stale"]) == (2.0, 1)


def test_the_best_is_known_after_a_resume(tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_losses(monkeypatch, [9.0, 1.0, 2.0, 1.5, 0.5])
    go_on(make_context(tmp_path, store, steps=4, eval_every=4))
    ctx = make_context(tmp_path, store, steps=12, eval_every=4)
    go_on(ctx)
    assert (tmp_path / "best").read_text() == "step-00000004\n", "the second and third were worse"
    go_on(make_context(tmp_path, store, steps=16, eval_every=4))
    assert (tmp_path / "best").read_text() == "step-00000016\n"


def test_samples_at_their_time_and_at_the_end(tmp_path: Path, store: TokenStore) -> None:
    fit(make_context(tmp_path, store, steps=10, sample_every=4, sample=lambda: "中", sample_prompt="To"))
    found = lines(tmp_path, "samples.jsonl")
    assert found == [{"step": s, "prompt": "To", "temperature": 0.7, "text": "中"} for s in (4, 8, 10)]


def test_a_sample_that_fails_leaves_mode_and_random_numbers(tmp_path: Path, store: TokenStore) -> None:
    def sample() -> str:
        ctx.state.model.eval()
        torch.rand(3)
        raise RuntimeError("no")

    ctx = make_context(tmp_path, store, steps=10, sample=sample)
    random = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no"):
        periodic.sample(ctx)
    assert ctx.state.model.training
    assert torch.equal(torch.get_rng_state(), random)


def at(
    ctx: TrainContext,
    *,
    steps: int | None,
    minutes: float | None,
    step: int,
    here: int,
    seconds: float,
    start_time: float,
) -> TrainContext:
    ctx.limits = Limits(steps, minutes, "steps")
    ctx.counters.step, ctx.counters.seconds = step, seconds
    ctx.loop.steps, ctx.loop.start_time = here, start_time
    return ctx


@pytest.mark.parametrize(
    ("steps", "minutes", "step", "here", "left"),
    [
        (100, None, 60, 20, 20.0),  # 20 steps here in 10 seconds, 40 to go; what went before does not count
        (100, None, 0, 0, None),  # no pace yet
        (100, 1.0, 60, 20, 15.0),  # the minute ends first
        (70, 1.0, 60, 20, 5.0),
        (None, 1.0, 60, 20, 15.0),
        (None, None, 60, 20, None),
        (50, None, 60, 20, 0.0),
    ],
)
def test_time_left_by_hand(
    tmp_path: Path,
    store: TokenStore,
    steps: int | None,
    minutes: float | None,
    step: int,
    here: int,
    left: float | None,
) -> None:
    ctx = at(
        make_context(tmp_path, store, steps=1),
        steps=steps,
        minutes=minutes,
        step=step,
        here=here,
        seconds=45,
        start_time=1000,
    )
    assert periodic.seconds_left(ctx, now=1010) == left


def test_the_line_shows_hours(tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context(tmp_path, store, steps=1)
    ctx.peak_flops = None
    metrics = StepMetrics(3, 300, 0, 4, 1000, 1.23456, 0.1, 1.0, 0.5)
    for left, shown in ((None, ""), (59.6, "ETA 1:00 · "), (3_725.0, "ETA 1:02:05 · "), (9.2, "ETA 0:09 · ")):
        monkeypatch.setattr(periodic, "seconds_left", lambda *_, left=left: left)
        assert periodic.progress_text(ctx, metrics) == f"{shown}loss 1.2346 · 2,000 tokens/s"
    ctx.peak_flops, ctx.device_context = 1e9, replace(CPU, world_size=2)
    assert "MFU 10 %" in periodic.progress_text(ctx, metrics), "2,000 x 1e5 FLOPs of two devices of 1e9"
    ctx.peak_flops = 5e7
    assert "MFU 200 %" in periodic.progress_text(ctx, metrics), "as it is, not capped"


def test_each_process_reads_its_own_rows(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(tmp_path, store, steps=1)
    whole = ctx.load_batch(40, ROWS)
    parts: list[Batch] = []
    for rank in range(2):
        ctx.device_context = replace(CPU, rank=rank, world_size=2)
        parts.append(ctx.load_batch(40, ROWS))
    assert torch.equal(torch.cat([p.inputs for p in parts]), whole.inputs)


def test_processes_agree_on_the_time_where_it_matters(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def broadcast(value: float, device_context: parallel.DeviceContext) -> float:
        asked.append(value)
        return 1234.5

    monkeypatch.setattr("firstlight.parallel.broadcast_object", broadcast)
    ctx = make_context(tmp_path, store, steps=5)
    ctx.update_seconds()
    assert asked == []
    assert ctx.counters.seconds < 1000
    ctx.limits = Limits(5, 60.0, "minutes")
    ctx.update_seconds()
    assert len(asked) == 1
    assert ctx.counters.seconds == 1234.5


def test_a_resumed_clock_counts_what_passed_before_the_loop(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(tmp_path, store, minutes=5, process_start=time.perf_counter() - 30)
    ctx.counters.step, ctx.counters.seconds, ctx.counters.setup_seconds = 400, 100.0, 20.0
    ctx.start_clock()
    assert ctx.counters.seconds == pytest.approx(130, abs=5)
    assert ctx.counters.setup_seconds == pytest.approx(50, abs=5)
    # 80 seconds of training so far, of the 250 that are left beside the preparations.
    assert ctx.limits.schedule_steps(ctx.counters) == pytest.approx(400 * 250 / 80, rel=0.05)


def test_the_ceiling_of_utilization_stays_and_a_low_one_is_said_once(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = make_context(tmp_path, store, steps=3)
    ctx.peak_flops = 1.0  # FLOP/s
    fit(ctx)
    assert ctx.peak_flops == 1.0
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["mfu"]
    assert (
        "is above 100 %: the device's peak of 1 FLOP/s, measured before the first step, is too low" in lines[0]["text"]
    )
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["mfu"] > 1 for line in logged if "mfu" in line)


def test_the_start_is_evaluated_once_and_is_never_the_best_of_random_weights(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_losses(monkeypatch, [0.1, 2.0, 3.0, 2.5])
    stop = ConvergenceSettings(evaluations=2)
    ctx, written = run_with(tmp_path, store, steps=20, eval_every=4, convergence=stop)
    assert [x["step"] for x in lines(tmp_path) if "valid_loss" in x] == [0, 4, 8, 12]
    assert (ctx.counters.best_step, written) == (4, [4, 12])


def test_a_run_that_starts_from_a_model_saves_it_and_may_find_nothing_better(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    stub_losses(monkeypatch, [1.0, 2.0, 1.5])
    ctx, written = run_with(tmp_path, store, steps=8, eval_every=4, keep_last=1, starts_from_model=True)
    assert written == [0, 8]
    assert (tmp_path / "best").read_text() == "step-00000000\n"
    assert ctx.counters.evaluations_without_gain == 2, "the start itself does not count"
    assert any("its best checkpoint is step 0" in e.text for e in events)


def test_a_start_is_saved_without_an_evaluation_too(tmp_path: Path, store: TokenStore) -> None:
    _, written = run_with(tmp_path, store, steps=4, eval_every=0, starts_from_model=True)
    assert written == [0, 4]
    _, written = run_with(tmp_path / "stopped", store, steps=4, stop_after=2, starts_from_model=True)
    assert written == [0, 2]
    go_on(make_context(tmp_path / "stopped", store, steps=4, starts_from_model=True))
    assert (tmp_path / "stopped" / "latest").read_text() == "step-00000004\n"


def test_a_start_that_is_not_finite_is_no_evaluation_without_gain(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_losses(monkeypatch, [float("nan"), 2.0])
    ctx, _ = run_with(tmp_path, store, steps=4, eval_every=4, starts_from_model=True)
    assert (ctx.counters.evaluations_without_gain, ctx.counters.best_step) == (0, 4)


def test_the_evaluation_of_the_start_is_no_part_of_a_schedule_in_minutes(tmp_path: Path, store: TokenStore) -> None:
    def evaluate(rows: int) -> ValidationResult:
        time.sleep(0.3)
        return ValidationResult(1.0, 1.0, 10, 10)

    ctx = make_context(tmp_path, store, minutes=1 / 60, eval_every=1000, evaluate=evaluate)
    fit(ctx)
    assert 0.3 < ctx.counters.setup_seconds < 0.9
    rates = [x["lr"] for x in lines(tmp_path) if "lr" in x]
    assert rates[0] == 0.01
