"""When a run ends, by hand, and how far along its schedule it is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from firstlight.errors import ConfigError
from firstlight.train import ConvergenceSettings, Counters, Limits, TrainSettings

CONVERGES = ConvergenceSettings(evaluations=3)


def resolve(**settings: Any) -> Limits:
    return Limits.resolve(TrainSettings(**settings), step_tokens=100, epoch_tokens=1_050, parameters=1_000)


@pytest.mark.parametrize(
    ("settings", "steps", "named"),
    [
        ({}, 42, "auto"),  # 4 epochs of 1,050 tokens are fewer than 20 tokens a parameter
        ({"steps": 7}, 7, "steps"),
        ({"tokens": 700}, 7, "tokens"),
        ({"tokens": 701}, 8, "tokens"),
        ({"tokens": 1}, 1, "tokens"),
        ({"epochs": 2}, 21, "epochs"),
        ({"epochs": 1}, 10, "epochs"),  # 10.5 rounds to even
        ({"epochs": 0.001}, 1, "epochs"),
        ({"steps": 7, "tokens": 600, "epochs": 2}, 6, "tokens"),
        ({"steps": 5, "tokens": 600}, 5, "steps"),
        ({"steps": None, "epochs": 1}, 10, "epochs"),
        ({"minutes": 3.0}, None, "minutes"),
        ({"minutes": 3.0, "steps": 7}, 7, "steps"),
        ({"convergence": CONVERGES}, None, "convergence"),
        ({"convergence": CONVERGES, "minutes": 1.0}, None, "minutes"),
        ({"convergence": CONVERGES, "steps": 9}, 9, "steps"),
        ({"steps": None, "convergence": CONVERGES}, None, "convergence"),
    ],
)
def test_limits_by_hand(settings: dict[str, Any], steps: int | None, named: str) -> None:
    assert resolve(**settings) == Limits(steps, settings.get("minutes"), named)


def test_auto_is_twenty_tokens_a_parameter_where_text_abounds() -> None:
    limits = Limits.resolve(TrainSettings(), step_tokens=100, epoch_tokens=10**9, parameters=1_000)
    assert limits == Limits(200, None, "auto")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": None}, "train.steps: nothing ends this run"),
        ({"steps": None, "convergence": CONVERGES, "eval_every": 0}, "Set train.eval_every"),
        ({"steps": 5, "convergence": CONVERGES, "eval_every": 0}, "Set train.eval_every"),
    ],
)
def test_a_run_that_would_never_end_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(**settings)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": -1}, {"micro_batch": 0}, {"eval_windows": 0}])
def test_counts_are_at_least_one(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainSettings(**settings)


def test_what_is_reached() -> None:
    settings = TrainSettings(steps=5, minutes=1, convergence=CONVERGES)
    limits = Limits(5, 1.0, "tokens")
    assert limits.reached(Counters(step=4, seconds=59.9, evaluations_without_gain=2), settings) is None
    assert limits.reached(Counters(step=5), settings) == "tokens"
    assert limits.reached(Counters(step=6), settings) == "tokens", "a resumed run may be given less than it has done"
    assert limits.reached(Counters(seconds=60), settings) == "minutes"
    assert limits.reached(Counters(evaluations_without_gain=3), settings) == "convergence"
    assert limits.reached(Counters(evaluations_without_gain=3), TrainSettings(steps=5)) is None


@given(st.integers(0, 100), st.floats(0, 1e6), st.none() | st.integers(1, 100))
def test_only_minutes_make_the_schedule_depend_on_the_clock(step: int, seconds: float, steps: int | None) -> None:
    assert Limits(steps, None, "steps").schedule_steps(Counters(step=step, seconds=seconds)) == steps


@pytest.mark.parametrize(
    ("step", "seconds", "outside", "steps", "total"),
    [
        (100, 15.0, 0.0, None, 400),  # a quarter of the minute
        (100, 30.0, 20.0, None, 400),  # 10 of 40 seconds: what passed before the loop is no training
        (100, 15.0, 0.0, 250, 250),
        (100, 15.0, 0.0, 4_000, 400),
        (100, 60.0, 0.0, None, 101),  # never behind the steps done
        (100, 90.0, 70.0, None, 101),
        (0, 5.0, 5.0, None, 1_000_000),  # no rate yet: the beginning of the schedule, whatever it is
        (0, 5.0, 5.0, 80, 80),
    ],
)
def test_a_limit_of_time_by_hand(step: int, seconds: float, outside: float, steps: int | None, total: int) -> None:
    counters = Counters(step=step, seconds=seconds, setup_seconds=outside)
    assert Limits(steps, 1.0, "minutes").schedule_steps(counters) == total
