import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.errors import ConfigError
from firstlight.optim import SCHEDULES, ScheduleSettings, lr_factor

schedules = st.builds(
    ScheduleSettings,
    name=st.sampled_from(sorted(SCHEDULES)),
    warmup_steps=st.integers(0, 40),
    warmup_ratio=st.floats(0, 0.5),
    decay_ratio=st.floats(0.05, 1),
    min_ratio=st.floats(0, 1),
)


def _run(schedule: ScheduleSettings, total: int) -> list[float]:
    return [lr_factor(step, total, schedule) for step in range(total + 1)]


def _warmup(schedule: ScheduleSettings, total: int) -> int:
    return max(schedule.warmup_steps, round(schedule.warmup_ratio * total))


@given(schedules, st.integers(1, 300))
def test_bounds(schedule: ScheduleSettings, total: int) -> None:
    run = _run(schedule, total)
    assert all(0 <= value <= 1 + 1e-12 for value in run)
    assert all(value > 0 for value in run[:-1]), "no step but the one past the last is without effect"
    warmup = _warmup(schedule, total)
    assert all(value >= schedule.min_ratio - 1e-12 for value in run[warmup:])


@given(schedules, st.integers(1, 300))
def test_rises_evenly_then_never_again(schedule: ScheduleSettings, total: int) -> None:
    run = _run(schedule, total)
    warmup = min(_warmup(schedule, total), total)
    rises = [b - a for a, b in zip(run[: warmup + 1], run[1 : warmup + 1], strict=False)]
    assert rises == pytest.approx([1 / (_warmup(schedule, total) + 1)] * len(rises))
    assert all(b <= a + 1e-12 for a, b in zip(run[warmup:], run[warmup + 1 :], strict=False))


@given(schedules, st.integers(20, 300))
def test_has_no_jumps(schedule: ScheduleSettings, total: int) -> None:
    run = _run(schedule, total)
    after = max(1, total - _warmup(schedule, total))
    # The steepest are wsd's straight line and the middle of the cosine (half of pi times the mean slope).
    steepest = 1.6 / (after * (schedule.decay_ratio if schedule.name == "wsd" else 1))
    bound = max(1 / (_warmup(schedule, total) + 1), steepest) + 1e-9
    assert all(abs(b - a) <= bound for a, b in zip(run, run[1:], strict=False))


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_ends_at_the_minimum(name: str) -> None:
    schedule = ScheduleSettings.model_validate({"name": name, "warmup_steps": 5, "min_ratio": 0.1})
    assert lr_factor(100, 100, schedule) == pytest.approx(0.1)
    assert lr_factor(10_000, 100, schedule) == pytest.approx(0.1)


def test_wsd_stays_and_then_falls_in_a_straight_line() -> None:
    run = _run(ScheduleSettings(name="wsd", warmup_steps=10, decay_ratio=0.2, min_ratio=0.0), 110)
    assert run[10:91] == pytest.approx([1.0] * 81)
    assert run[90:] == pytest.approx([1 - i / 20 for i in range(21)])


def test_cosine_and_linear_are_half_way_in_the_middle() -> None:
    for name in ("cosine", "linear"):
        schedule = ScheduleSettings.model_validate({"name": name, "min_ratio": 0.2})
        assert lr_factor(50, 100, schedule) == pytest.approx(0.6)
    assert lr_factor(25, 100, ScheduleSettings(name="cosine")) > lr_factor(25, 100, ScheduleSettings(name="linear"))


def test_constant_ignores_the_minimum() -> None:
    assert _run(ScheduleSettings(name="constant", min_ratio=0.3), 10) == [1.0] * 11


def test_the_longer_warm_up_counts() -> None:
    assert lr_factor(0, 100, ScheduleSettings(warmup_steps=9, warmup_ratio=0.04)) == pytest.approx(1 / 10)
    assert lr_factor(0, 100, ScheduleSettings(warmup_steps=3, warmup_ratio=0.19)) == pytest.approx(1 / 20)


@pytest.mark.parametrize("name", ["constant", "wsd"])
def test_without_a_total_it_is_constant_after_warm_up(name: str) -> None:
    schedule = ScheduleSettings.model_validate({"name": name, "warmup_steps": 3})
    assert [lr_factor(step, None, schedule) for step in (0, 1, 2, 3, 99, 10**6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"name": "linear"}, "optim.schedule.name"),
        ({"name": "cosine"}, "optim.schedule.name"),
        ({"name": "wsd", "warmup_ratio": 0.1}, "optim.schedule.warmup_ratio"),
    ],
)
def test_a_share_of_an_unknown_total_is_refused(table: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lr_factor(0, None, ScheduleSettings.model_validate(table))
    assert caught.value.where == key


def _returns(value: object) -> object:
    return lambda progress, settings: value


def _fails(progress: float, settings: ScheduleSettings) -> float:
    raise KeyError("two\nlines")


nan, infinite, negative, nothing, text = map(_returns, (math.nan, math.inf, -1.0, None, "fast"))


@pytest.mark.parametrize("name", ["nan", "infinite", "negative", "nothing", "text", "_fails"])
def test_a_schedule_of_others_that_returns_no_factor_is_refused(name: str, trust_files: None) -> None:
    schedule = ScheduleSettings(name=f"test_schedule:{name}")
    with pytest.raises(ConfigError, match=f"test_schedule:{name} (fails|returned an unusable factor)") as caught:
        lr_factor(0, 10, schedule)
    assert caught.value.where == "optim.schedule.name"
    assert "\n" not in caught.value.message
