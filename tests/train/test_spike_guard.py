"""The guard: the bound of a spike by hand, and its verdicts in order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from firstlight.train import Counters, SpikeGuardSettings
from firstlight.train.spike_guard import Action, check_step, spike_bound

GO, SKIP, BACK, FAIL = Action.CONTINUE, Action.SKIP, Action.ROLL_BACK, Action.FAIL


def test_bound_by_hand() -> None:
    # Median 3; distances from it 0 (4 times), 1 (12 times) and 2 (4 times): median 1.
    losses = [1.0] * 2 + [2.0] * 6 + [3.0] * 4 + [4.0] * 6 + [5.0] * 2
    assert spike_bound(losses, 8.0) == pytest.approx(3 + 8 * 1.4826)
    assert spike_bound(losses, 2.0) == pytest.approx(3 + 2 * 1.4826)


def test_a_flat_curve_has_a_hundredth_of_its_level_for_deviation() -> None:
    assert spike_bound([2.0] * 30, 8.0) == pytest.approx(2 + 8 * 0.02)


def test_one_wild_loss_does_not_move_the_bound() -> None:
    assert spike_bound([2.0] * 30 + [1e9], 8.0) == pytest.approx(2.16)


@pytest.mark.parametrize(("losses", "sigma"), [([1.0] * 19, 8.0), ([], 8.0), ([1.0] * 50, 0.0)])
def test_no_bound_without_enough_losses_or_where_it_is_off(losses: list[float], sigma: float) -> None:
    assert spike_bound(losses, sigma) == math.inf


def test_a_window_too_small_for_any_bound_is_refused() -> None:
    with pytest.raises(ValidationError, match="spike_window"):
        SpikeGuardSettings(spike_window=19)


def quiet_counters(**fields: object) -> Counters:
    return Counters(losses=[2.0] * 30, **fields)  # type: ignore[arg-type]


def verdicts(counters: Counters, losses: list[float], settings: SpikeGuardSettings) -> list[Action]:
    return [check_step(counters, 10 * i, x, math.isfinite(x), settings) for i, x in enumerate(losses)]


def test_three_spikes_in_a_row_roll_back() -> None:
    counters = quiet_counters()
    assert verdicts(counters, [2.0, 5.0, 5.0, 2.0, 5.0, 5.0, 5.0], SpikeGuardSettings()) == [GO] * 6 + [BACK]
    assert counters.spike_steps == 3
    assert counters.spike_position == 40, "of the first of the three"
    assert counters.losses == [2.0] * 32, "spikes do not make the bound"


def test_a_step_left_out_does_not_end_a_spike() -> None:
    counters = quiet_counters()
    assert verdicts(counters, [5.0, math.nan, 5.0, math.nan, 5.0], SpikeGuardSettings()) == [GO, SKIP, GO, SKIP, BACK]
    assert counters.spike_position == 0


def test_rollbacks_are_limited() -> None:
    assert verdicts(quiet_counters(rollbacks=2), [5.0], SpikeGuardSettings(spike_steps=1)) == [BACK]
    assert verdicts(quiet_counters(rollbacks=3), [5.0], SpikeGuardSettings(spike_steps=1)) == [FAIL]
    assert verdicts(quiet_counters(), [5.0], SpikeGuardSettings(spike_steps=1, max_rollbacks=0)) == [FAIL]


def test_steps_left_out_in_a_row_are_limited() -> None:
    settings = SpikeGuardSettings(max_skipped_steps=2)
    nan = math.nan
    assert verdicts(Counters(), [nan, nan, 2.0, nan, nan, nan], settings) == [SKIP, SKIP, GO, SKIP, SKIP, FAIL]


def test_a_spike_can_be_let_through() -> None:
    counters = quiet_counters()
    assert verdicts(counters, [5.0] * 5, SpikeGuardSettings(spike_sigma=0)) == [GO] * 5
    assert counters.losses[-5:] == [5.0] * 5


@given(st.lists(st.floats(0.1, 10), max_size=80), st.integers(20, 40))
def test_only_the_newest_losses_are_kept(losses: list[float], window: int) -> None:
    counters = Counters()
    verdicts(counters, losses, SpikeGuardSettings(spike_sigma=0, spike_window=window))
    assert counters.losses == losses[-window:]
