"""The state: counters that go round, skipped windows, and what counts as a gain."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_run import make_state

from firstlight.errors import CheckpointError
from firstlight.train import Counters

numbers = st.integers(0, 10**9)
maybe = st.none() | st.floats(0, 100)
counters_ = st.builds(
    Counters,
    step=numbers,
    tokens=numbers,
    position=numbers,
    seconds=st.floats(0, 1e9),
    setup_seconds=st.floats(0, 1e9),
    micro_batch=numbers,
    skipped=st.lists(st.tuples(numbers, numbers), max_size=3),
    nonfinite_steps=numbers,
    rollbacks=numbers,
    spike_steps=numbers,
    spike_position=numbers,
    losses=st.lists(st.floats(0, 100), max_size=4),
    best_loss=maybe,
    best_step=st.none() | numbers,
    last_improvement=maybe,
    evaluations_without_gain=numbers,
)


@given(counters_)
def test_counters_survive_json(counters: Counters) -> None:
    assert Counters.from_json(json.loads(json.dumps(counters.to_json()))) == counters


def test_a_copy_is_independent() -> None:
    counters = Counters(losses=[1.0])
    table = counters.to_json()
    counters.losses.append(2.0)
    assert table["losses"] == [1.0]


@pytest.mark.parametrize("change", [{"surprise": 1}, {"step": None}])
def test_counters_of_another_version_are_refused(change: dict[str, object]) -> None:
    table = {k: v for k, v in {**Counters().to_json(), **change}.items() if v is not None or k not in change}
    with pytest.raises(CheckpointError, match="surprise|step"):
        Counters.from_json(table)


windows_ = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=6)


@given(windows_, st.integers(0, 80), st.integers(1, 8))
def test_skip_to_is_the_first_place_that_touches_no_window(
    windows: list[tuple[int, int]], position: int, rows: int
) -> None:
    def free(at: int) -> bool:
        taken = {row for first, n in windows for row in range(first, first + n)}
        return taken.isdisjoint(range(at, at + rows))

    found = Counters(skipped=windows).next_position(position, rows)
    assert found == next(at for at in range(position, 200) if free(at))


def test_stale_counts_evaluations_since_a_gain() -> None:
    counters = Counters()
    seen = []
    for step, loss in enumerate([3.0, 2.0, 2.5, 1.99, 1.0], start=1):
        counters.step = step
        counters.record_evaluation(loss, threshold=0.0)
        seen.append((counters.best_loss, counters.best_step, counters.evaluations_without_gain))
    assert seen == [(3.0, 1, 0), (2.0, 2, 0), (2.0, 2, 1), (1.99, 4, 0), (1.0, 5, 0)]


def test_small_gains_add_up_to_one() -> None:
    counters = Counters()
    evaluations_without_gain = []
    for loss in [2.0, 1.96, 1.92, 1.88, 1.87, 1.865]:
        counters.step += 1
        counters.record_evaluation(loss, threshold=0.1)
        counters.record_evaluation(loss, threshold=0.1)  # again, by a run that is resumed at this step
        evaluations_without_gain.append(counters.evaluations_without_gain)
    assert evaluations_without_gain == [0, 1, 2, 0, 1, 2]
    assert counters.best_loss == 1.865, "the best is the best, however little it gains"


def test_a_state_from_before_the_step_of_the_evaluation_was_stored() -> None:
    table = Counters(step=7).to_json()
    del table["evaluated_step"]
    assert Counters.from_json(table) == Counters(step=7)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_never_the_best(loss: float) -> None:
    counters = Counters()
    for each in (loss, 2.0, loss):
        counters.step += 1
        counters.record_evaluation(each, threshold=0.0)
    assert (counters.best_loss, counters.last_improvement, counters.evaluations_without_gain) == (2.0, 2.0, 1)


def test_averaged_weights_must_be_in_both_or_none() -> None:
    with_average, without = make_state(average=0.9), make_state()
    with pytest.raises(CheckpointError, match="train.ema_decay is set, but the checkpoint has no averaged weights"):
        with_average.load_trainer_tensors(without.trainer_tensors())
    with pytest.raises(CheckpointError, match="but train.ema_decay is not set"):
        without.load_trainer_tensors(with_average.trainer_tensors())


def test_the_loss_scale_goes_round() -> None:
    one, two = make_state(), make_state()
    one.scaler, two.scaler = torch.amp.GradScaler("cpu", init_scale=64.0), torch.amp.GradScaler("cpu")
    one.scaler.scale(torch.ones(()))
    two.load_scalars(json.loads(json.dumps(one.scalars())))
    assert two.scaler.get_scale() == 64.0
    assert make_state().scalars() == {"scaler": None}
