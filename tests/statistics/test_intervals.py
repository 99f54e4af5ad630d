import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.statistics import ratio_interval, wilson_interval


def test_nothing_can_be_said_from_fewer_than_two_parts():
    assert ratio_interval(np.array([]), np.array([])) is None
    assert ratio_interval(np.array([3.0]), np.array([2.0])) is None
    assert ratio_interval(np.array([3.0, 3.0]), np.array([2.0, 2.0])) == (1.5, 1.5)


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    sums, counts = np.array([1.0, 5.0, 2.0]), np.array([1.0, 2.0, 4.0])
    # All 27 draws of three parts have the same probability.
    draws = np.array([[i, j, k] for i in range(3) for j in range(3) for k in range(3)])
    ratios = np.sort(sums[draws].sum(1) / counts[draws].sum(1))
    low, high = ratio_interval(sums, counts, level=0.8, n_bootstrap=20_000)
    assert low == pytest.approx(np.quantile(ratios, 0.1, method="inverted_cdf"), abs=0.02)
    assert high == pytest.approx(np.quantile(ratios, 0.9, method="inverted_cdf"), abs=0.02)


@pytest.mark.parametrize(
    ("level", "n"), [(0.95, 60), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.8, 60), (0.95, 400)))]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(level, n):
    generator = np.random.default_rng(1)
    inside, trials = 0, 300
    for trial in range(trials):
        counts = generator.integers(20, 64, n).astype(float)
        sums = counts * generator.gamma(4.0, 0.5, n)  # the true ratio is 2
        low, high = ratio_interval(sums, counts, level=level, n_bootstrap=300, seed=trial)
        inside += low <= 2.0 <= high
    spread = math.sqrt(level * (1 - level) / trials)
    assert abs(inside / trials - level) < 0.02 + 3 * spread


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.integers(1, 50)), min_size=2, max_size=30),
    st.floats(0.5, 0.99),
)
@settings(max_examples=60, deadline=None)
def test_the_interval_lies_between_the_parts_and_grows_with_the_level(parts, level):
    sums, counts = np.array([s for s, _ in parts]), np.array([float(c) for _, c in parts])
    low, high = ratio_interval(sums, counts, level=level, n_bootstrap=200)
    ratios = sums / counts
    assert ratios.min() - 1e-9 <= low <= high <= ratios.max() + 1e-9
    wide = ratio_interval(sums, counts, level=0.995, n_bootstrap=200)
    assert wide[0] <= low + 1e-12
    assert wide[1] >= high - 1e-12
    assert ratio_interval(3 * sums, counts, level=level, n_bootstrap=200) == pytest.approx((3 * low, 3 * high))


def test_many_parts_cost_what_a_thousand_do_and_neighbours_stay_together():
    generator = np.random.default_rng(0)
    n = 400_000
    # Neighbours alike: parts are far from independent, and an interval that took them so would be too narrow.
    sums = np.repeat(generator.normal(2.0, 1.0, n // 100), 100)
    began = time.process_time()
    low, high = ratio_interval(sums, np.ones(n))
    assert time.process_time() - began < 2
    honest = 2 * 1.96 / math.sqrt(n // 100)
    assert 0.7 * honest < high - low < 1.4 * honest
    assert low < sums.mean() < high


def test_joined_parts_are_all_there():
    sums, counts = np.arange(2500.0), np.ones(2500)
    low, high = ratio_interval(sums, counts)
    assert low < sums.mean() < high


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_interval(bad):
    low, high = ratio_interval(np.array([1.0, bad, 2.0]), np.ones(3))
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_same_parts_give_the_same_interval():
    sums, counts = np.array([1.0, 2.0, 4.0]), np.ones(3)
    assert ratio_interval(sums, counts) == ratio_interval(sums, counts)
    assert ratio_interval(sums, counts, seed=1) is not None


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (24, 24), (7, 20), (480, 500)])
def test_wilson_is_that_of_scipy(right: int, n: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson_interval(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
