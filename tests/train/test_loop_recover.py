"""What goes wrong and is survived: spikes, figures that are not finite, memory and disks that run out."""

import errno
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import ROWS, T, curve, go_on, lines, make_context, write_model

from firstlight.errors import StorageError, TrainingError
from firstlight.optim import AdamW, ScheduleSettings
from firstlight.progress import Event
from firstlight.store import Batches, TokenStore
from firstlight.train import CheckpointManager, LossModule, SpikeGuardSettings, TrainContext, ValidationResult, fit
from firstlight.types import Batch

FLAT = AdamW(lr=0.01, schedule=ScheduleSettings(name="constant"))
GUARD = SpikeGuardSettings(spike_sigma=6, spike_window=20)


class Poisoned:
    """Batches of which some rows are spoilt: by wrong letters, or by weights that are not finite."""

    def __init__(self, store: TokenStore, bad: range, how: str = "letters") -> None:
        self.own, self.bad, self.how, self.taken = Batches(store, block_size=T, seed=0), bad, how, [0]

    def batch(self, position: int, rows: int) -> Batch:
        self.taken.append(position)
        batch = self.own.batch(position, rows)
        hit = torch.tensor([p in self.bad for p in range(position, position + rows)])
        if self.how == "letters":
            return replace(batch, targets=torch.where(hit[:, None], (batch.targets + 5) % 11, batch.targets))
        weights = torch.ones(rows, T)
        weights[hit] = math.inf
        return replace(batch, weights=weights)

    def sources(self, position: int, rows: int) -> list[str]:
        return [f"row-{p}" for p in range(position, position + rows)]


def steps(first: int, last: int) -> range:
    """Return the rows of steps ``first`` to ``last``, counted from 1."""
    return range((first - 1) * ROWS, last * ROWS)


def calm_guard(**kw: Any) -> SpikeGuardSettings:
    return GUARD.model_copy(update=kw)


def warnings(events: list[Event]) -> list[str]:
    return [e.text for e in events if e.level == "warning"]


def test_a_divergence_is_seen_rolled_back_and_survived(tmp_path: Path, store: TokenStore, events: list[Event]) -> None:
    batches = Poisoned(store, steps(44, 70))
    guard = calm_guard(max_rollbacks=20)
    ctx = make_context(tmp_path, store, settings=FLAT, batches=batches, steps=60, checkpoint_every=20, guard=guard)
    result = fit(ctx)
    assert (result.finished, result.step) == (True, 60)
    # Each rollback leaves out three steps' rows, and goes back to step 40: the last before the first spike.
    assert ctx.counters.rollbacks == 9
    assert ctx.counters.skipped == [((44 - 1 + 3 * i) * ROWS, 3 * ROWS) for i in range(9)]
    assert ctx.counters.position == (60 + 27) * ROWS
    assert result.train_loss < 1.2
    trained = [x for x in lines(tmp_path) if "loss" in x]
    assert [x["step"] for x in trained] == list(range(1, 61)), "what was undone is not in the curve"
    assert max(x["loss"] for x in trained[20:]) < 2
    told = [e for e in lines(tmp_path, "events.jsonl") if e["kind"] == "rollback"]
    assert len(told) == 9
    assert told[0]["step"] == 46
    assert "rolled back to checkpoint step-00000040, skipping rows 172 to 183" in told[0]["text"]
    assert told[0]["text"].endswith("documents: row-180, row-181, row-182, row-183")
    assert len(warnings(events)) == 9
    done = [e.done for e in events if e.task == "train"]
    assert done[-1] == 60
    assert done[46:49] == [45, 40, 41], "progress goes back too"


def test_the_rollback_is_what_a_run_without_those_rows_would_have_been(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(
        tmp_path / "a",
        store,
        settings=FLAT,
        batches=Poisoned(store, steps(44, 46)),
        steps=55,
        checkpoint_every=20,
        guard=GUARD,
    )
    fit(ctx)
    assert ctx.counters.rollbacks == 1
    other = make_context(tmp_path / "b", store, settings=FLAT, steps=55, guard=GUARD)
    other.counters.skipped = [(43 * ROWS, 3 * ROWS)]
    fit(other)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


def test_a_run_stopped_after_a_rollback_goes_on_as_if_not(tmp_path: Path, store: TokenStore) -> None:
    kw: dict[str, Any] = {"settings": FLAT, "steps": 55, "checkpoint_every": 20, "guard": GUARD, "keep_last": 1}
    for name, stops in (("whole", (0,)), ("broken", (45, 48, 0))):
        for stop_after in stops:
            batches = Poisoned(store, steps(44, 46))
            ctx = make_context(tmp_path / name, store, batches=batches, stop_after=stop_after, **kw)
            go_on(ctx)
        assert ctx.counters.rollbacks == 1
    assert curve(tmp_path / "whole") == curve(tmp_path / "broken")


def test_rollbacks_are_limited_and_the_documents_named(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(
        tmp_path,
        store,
        settings=FLAT,
        batches=Poisoned(store, steps(31, 10_000)),
        steps=200,
        checkpoint_every=10,
        guard=calm_guard(max_rollbacks=2),
    )
    with pytest.raises(TrainingError) as caught:
        fit(ctx)
    text = str(caught.value)
    assert text.startswith("step 33: the loss spiked again after 2 rollbacks (found loss ")
    assert "documents: row-" in text
    assert "Lower optim.lr" in text
    assert lines(tmp_path, "events.jsonl")[-1]["kind"] == "failed"
    assert (tmp_path / "latest").read_text() == "step-00000030\n"


def test_a_rollback_before_the_first_checkpoint_starts_again(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(
        tmp_path / "a",
        store,
        settings=FLAT,
        dropout=0.1,
        batches=Poisoned(store, steps(44, 46)),
        steps=50,
        guard=GUARD,
        process_start=time.perf_counter() - 10,
    )
    fit(ctx)
    assert "back to the start, since there is no checkpoint yet" in lines(tmp_path / "a", "events.jsonl")[0]["text"]
    other = make_context(tmp_path / "b", store, settings=FLAT, dropout=0.1, steps=50, guard=GUARD)
    other.counters.skipped = [(43 * ROWS, 3 * ROWS)]
    fit(other)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    assert (ctx.counters.rollbacks, ctx.counters.micro_batch) == (1, ROWS)
    assert ctx.counters.setup_seconds > 10, "the time before the loop has not come back"


def test_no_checkpoint_is_made_amid_a_spike(tmp_path: Path, store: TokenStore) -> None:
    points = CheckpointManager(tmp_path, write_model, 99)
    fit(
        make_context(
            tmp_path,
            store,
            settings=FLAT,
            batches=Poisoned(store, steps(40, 41)),
            steps=50,
            checkpoint_every=20,
            guard=GUARD,
            checkpoints=points,
        )
    )
    found = [int(p.name[5:]) for p in points.all()]
    assert found[0] == 20
    assert found[-1] == 50
    assert 41 < found[1] < 50, "the one due at 40 is made once the loss is fine again"


def test_a_batch_that_is_not_finite_is_left_out(tmp_path: Path, store: TokenStore, events: list[Event]) -> None:
    ctx = make_context(
        tmp_path, store, settings=FLAT, batches=Poisoned(store, steps(6, 7), "weights"), steps=12, log_every=100
    )
    result = fit(ctx)
    assert result.finished
    assert math.isfinite(result.train_loss)
    trained = {x["step"]: x["loss"] for x in lines(tmp_path) if "loss" in x}
    assert trained.keys() == {1, 6, 7, 12}, "each of them is in the log, whatever is due"
    assert (trained[6], trained[7]) == ("NaN", "NaN")
    told = [e["text"] for e in lines(tmp_path, "events.jsonl")]
    assert len(told) == 2
    assert told[0] == "update skipped: loss nan, gradient norm nan; documents: row-20, row-21, row-22, row-23"
    assert ctx.counters.nonfinite_steps == 0


def test_a_run_whose_last_step_is_not_finite_has_failed(tmp_path: Path, store: TokenStore) -> None:
    def context(n_steps: int) -> TrainContext:
        return make_context(tmp_path, store, batches=Poisoned(store, steps(8, 8), "weights"), steps=n_steps)

    for _ in range(2):  # a resume does not make it finished
        with pytest.raises(
            TrainingError, match="step 8: the loss or gradient of the last step is not finite, so the run"
        ):
            go_on(context(8))
    assert go_on(context(9)).finished, "but further steps do"


def test_a_run_whose_last_evaluation_is_not_finite_has_failed(tmp_path: Path, store: TokenStore) -> None:
    def evaluate(_: int) -> ValidationResult:
        return ValidationResult(math.nan, None, 10, 0)

    with pytest.raises(
        TrainingError, match="step 5: the loss on the validation data is not finite, so the run counts as"
    ):
        fit(make_context(tmp_path, store, steps=5, evaluate=evaluate))
    assert (tmp_path / "latest").read_text() == "step-00000005\n", "nothing is lost"


def test_steps_left_out_in_a_row_are_limited(tmp_path: Path, store: TokenStore) -> None:
    guard = SpikeGuardSettings(max_skipped_steps=2)
    ctx = make_context(
        tmp_path, store, batches=Poisoned(store, steps(4, 99), "weights"), steps=50, guard=guard, checkpoint_every=2
    )
    with pytest.raises(
        TrainingError, match=r"step 6: loss or gradient was not finite in 3 steps in a row .*row-20, row-21"
    ):
        fit(ctx)
    assert (tmp_path / "latest").read_text() == "step-00000002\n", "none was made of a step that was left out"


def test_overflows_that_find_the_scale_of_fp16_are_no_news(tmp_path: Path, store: TokenStore) -> None:
    device_context = replace(make_context(tmp_path, store, steps=1).device_context, precision="fp16")
    ctx = make_context(tmp_path, store, settings=FLAT, steps=14, device_context=device_context)
    ctx.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26)
    result = fit(ctx)
    left_out = [x for x in lines(tmp_path) if x.get("grad_norm") in ("Infinity", "NaN")]
    assert 2 < len(left_out) < 14
    assert not (tmp_path / "events.jsonl").exists()
    assert result.finished
    assert math.isfinite(lines(tmp_path)[13]["grad_norm"])


class Masked(Poisoned):
    """Batches in which some rows have no targets at all."""

    def batch(self, position: int, rows: int) -> Batch:
        batch = self.own.batch(position, rows)
        hit = torch.tensor([p in self.bad for p in range(position, position + rows)])
        return replace(batch, weights=torch.where(hit[:, None], 0.0, 1.0).expand(rows, T))


def test_a_batch_without_targets_is_no_failure(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(
        tmp_path,
        store,
        batches=Masked(store, steps(3, 9)),
        steps=12,
        guard=SpikeGuardSettings(max_skipped_steps=1),
        tokens=None,
    )
    result = fit(ctx)
    assert (result.finished, result.tokens) == (True, 5 * ROWS * T)
    assert not (tmp_path / "events.jsonl").exists()
    assert [x["loss"] for x in lines(tmp_path) if "loss" in x][2:9] == ["NaN"] * 7


class Hungry(torch.nn.Module):
    """A loss module that runs out of memory with more than so many rows."""

    def __init__(self, own: LossModule, most: int) -> None:
        super().__init__()
        self.own, self.most, self.seen = own, most, [0]

    def forward(self, inputs: torch.Tensor, *rest: Any) -> Any:
        self.seen.append(len(inputs))
        torch.rand(1)  # as dropout would draw
        if len(inputs) > self.most:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            )
        return self.own(inputs, *rest)


def test_out_of_memory_halves_and_goes_on(tmp_path: Path, store: TokenStore, events: list[Event]) -> None:
    fit(make_context(tmp_path / "calm", store, settings=FLAT, steps=5, rows=12))
    ctx = make_context(tmp_path / "short", store, settings=FLAT, steps=5, rows=12)
    module = ctx.module = Hungry(LossModule(ctx.state.model), 3)
    fit(ctx)
    assert module.seen[1:8] == [12, 6, 3, 3, 3, 3, 3], "12 and 6 do not fit; then four pieces a step"
    assert ctx.counters.micro_batch == 3
    assert warnings(events) == [
        "step 0: out of memory with micro-batches of 12 rows; continuing with 6",
        "step 0: out of memory with micro-batches of 6 rows; continuing with 3",
    ]
    assert [e["kind"] for e in lines(tmp_path / "short", "events.jsonl")] == ["out-of-memory"] * 2
    for ours, theirs in zip(curve(tmp_path / "short"), curve(tmp_path / "calm"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_step_taken_again_draws_the_same_random_numbers(tmp_path: Path, store: TokenStore) -> None:
    states = []
    for most in (2, 99):
        ctx = make_context(tmp_path / str(most), store, steps=1, micro_batch=4 if most == 2 else 2)
        ctx.module = Hungry(LossModule(ctx.state.model), most)
        fit(ctx)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_what_was_found_to_fit_is_kept_over_a_resume(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(tmp_path, store, steps=6, stop_after=3)
    ctx.module = Hungry(LossModule(ctx.state.model), 2)
    fit(ctx)
    ctx = make_context(tmp_path, store, steps=6)
    module = ctx.module = Hungry(LossModule(ctx.state.model), 2)
    go_on(ctx)
    assert set(module.seen[1:]) == {2}


def test_one_row_that_does_not_fit_ends_the_run(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(tmp_path, store, steps=5)
    ctx.module = Hungry(LossModule(ctx.state.model), 0)
    with pytest.raises(TrainingError, match="out of memory with micro-batches of one row"):
        fit(ctx)


def test_other_errors_are_not_taken_for_it(tmp_path: Path, store: TokenStore) -> None:
    ctx = make_context(tmp_path, store, steps=5)

    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes differ")

    ctx.module.forward = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(ctx)


def disk(full: Callable[[Path], bool]) -> Callable[[Path, dict[str, torch.Tensor]], None]:
    def write(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        if full(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_model(folder, weights)

    return write


def test_a_full_disk_is_warned_of_and_training_goes_on(tmp_path: Path, store: TokenStore, events: list[Event]) -> None:
    write = disk(lambda folder: "step-00000004" in folder.name or "step-00000006" in folder.name)
    result = fit(
        make_context(tmp_path, store, steps=10, checkpoint_every=2, checkpoints=CheckpointManager(tmp_path, write, 9))
    )
    assert result.finished
    assert sorted(p.name[-1] for p in (tmp_path / "checkpoints").iterdir()) == ["0", "2", "8"]
    assert len(warnings(events)) == 2
    assert all(
        "no space left on the disk" in w and "training continues, with the previous one on disk" in w
        for w in warnings(events)
    )


def test_a_disk_that_stays_full_fails_the_run_at_its_end(
    tmp_path: Path, store: TokenStore, events: list[Event]
) -> None:
    write = disk(lambda folder: "step-00000002" not in folder.name)
    ctx = make_context(tmp_path, store, steps=8, checkpoint_every=2, checkpoints=CheckpointManager(tmp_path, write, 9))
    with pytest.raises(StorageError, match="no space left on the disk"):
        fit(ctx)
    assert ctx.counters.step == 8, "everything was tried first"
    assert [x["step"] for x in lines(tmp_path) if "loss" in x] == list(range(1, 9))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert len(warnings(events)) == 3, "of the steps 4, 6 and 8; the last save of 8 is the error"


def test_the_last_save_is_tried_again_where_it_failed_in_passing(tmp_path: Path, store: TokenStore) -> None:
    tries: list[str] = []

    def full(folder: Path) -> bool:
        tries.append(folder.name)
        return len(tries) == 1

    fit(
        make_context(
            tmp_path,
            store,
            steps=4,
            eval_every=4,
            checkpoint_every=4,
            checkpoints=CheckpointManager(tmp_path, disk(full), 9),
        )
    )
    assert len(tries) == 2
    assert (tmp_path / "latest").read_text() == (tmp_path / "best").read_text() == "step-00000004\n"


def test_a_slow_disk_holds_up_no_step(tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save of step 2, which is the best, ends only when the batch of step 9 has been asked for."""
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr("small_run.validate", lambda *_: ValidationResult(next(losses), 1.0, 10, 10))
    reached = threading.Event()

    class Watched(Poisoned):
        def batch(self, position: int, rows: int) -> Batch:
            if position >= 8 * ROWS:
                reached.set()
            return super().batch(position, rows)

    def write(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        assert reached.wait(20), "the loop waits for the disk"
        write_model(folder, weights)

    points = CheckpointManager(tmp_path, write, 9)
    fit(make_context(tmp_path, store, steps=10, eval_every=2, batches=Watched(store, range(0)), checkpoints=points))
    assert [p.name for p in points.all()] == ["step-00000002", "step-00000010"]
