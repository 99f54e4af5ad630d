"""Metrics against hand-derived cases and what must hold for any answers."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.finetuning.kinds import KINDS
from firstlight.statistics import METRICS, bootstrap_interval, calibration, confusion, paired_p_value

CLASSES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60)
SCORES = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=40)


def split(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(pairs)
    return table[:, 0], table[:, 1]


def test_every_metric_that_a_task_may_name_is_there() -> None:
    heads = [head for kind in KINDS.values() for head in (kind.head, kind.labelled_head)]
    named = {metric for head in heads if head is not None for metric in head.metrics}
    assert named == set(METRICS)


def test_a_case_by_hand() -> None:
    # Four right of six; of class 1 two of three found, and three said.
    predicted, true = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 1, 0, 0, 0, 1])
    assert METRICS["accuracy"](predicted, true) == pytest.approx(4 / 6)
    assert METRICS["f1"](predicted, true) == pytest.approx(2 * 2 / (3 + 3))
    assert METRICS["macro_f1"](predicted, true) == pytest.approx(2 / 3)
    assert METRICS["matthews"](predicted, true) == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert confusion(predicted, true, 2).tolist() == [[2, 1], [1, 2]]


def test_correlations_by_hand() -> None:
    predicted, true = np.array([1.0, 2, 3, 4]), np.array([2.0, 4, 6, 9])
    assert METRICS["spearman"](predicted, true) == pytest.approx(1.0)
    assert METRICS["pearson"](predicted, true) == pytest.approx(11.5 / math.sqrt(5 * 26.75))
    # Equal values share their mean rank: 1, 2.5, 2.5, 4 beside 1, 2, 3, 4.
    tied = np.array([1.0, 2, 2, 3])
    assert METRICS["spearman"](tied, predicted) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


@given(CLASSES)
def test_matthews_of_two_classes_is_a_correlation(pairs: list[tuple[int, int]]) -> None:
    predicted, true = (side % 2 for side in split(pairs))
    assert METRICS["matthews"](predicted, true) == pytest.approx(METRICS["pearson"](predicted * 1.0, true * 1.0))


@given(CLASSES)
def test_bounds_and_perfect_answers(pairs: list[tuple[int, int]]) -> None:
    predicted, true = split(pairs)
    for name in ("accuracy", "f1", "macro_f1"):
        assert 0 <= METRICS[name](predicted, true) <= 1
    assert -1 - 1e-9 <= METRICS["matthews"](predicted, true) <= 1 + 1e-9
    assert METRICS["accuracy"](true, true) == METRICS["macro_f1"](true, true) == 1
    assert METRICS["matthews"](true, true) == pytest.approx(1.0 if len(np.unique(true)) > 1 else 0.0)
    table = confusion(predicted, true, 4)
    assert table.sum() == len(pairs) and np.trace(table) == np.sum(predicted == true)


@given(CLASSES)
def test_metrics_of_classes_are_those_of_their_definitions(pairs: list[tuple[int, int]]) -> None:
    predicted, true = split(pairs)
    table = confusion(predicted, true, 4).astype(float)
    rows, columns, n = table.sum(1), table.sum(0), table.sum()
    below = (n**2 - columns @ columns) * (n**2 - rows @ rows)
    expected = (np.trace(table) * n - rows @ columns) / math.sqrt(below) if below else 0.0
    assert METRICS["matthews"](predicted, true) == pytest.approx(expected)
    each = [METRICS["f1"](predicted == c, true == c) for c in np.union1d(predicted, true)]
    assert METRICS["macro_f1"](predicted, true) == pytest.approx(np.mean(each))


def test_metrics_of_many_classes_take_memory_in_proportion_to_them() -> None:
    source = np.random.default_rng(0)
    predicted, true = source.integers(0, 20_000, (2, 1000))
    tracemalloc.start()
    try:
        for name in ("accuracy", "macro_f1", "matthews"):
            METRICS[name](predicted, true)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20, "a matrix of 20,000 classes has 3 GB"
    finally:
        tracemalloc.stop()


@given(SCORES)
def test_spearman_sees_only_the_order(pairs: list[tuple[int, int]]) -> None:
    a, b = (side.astype(np.float64) for side in split(pairs))
    assert METRICS["spearman"](np.exp(a / 20), b) == pytest.approx(METRICS["spearman"](a, b))
    assert METRICS["pearson"](3 * a + 5, b) == pytest.approx(METRICS["pearson"](a, b), abs=1e-9)


def test_an_interval_holds_the_value_and_narrows_with_more_rows() -> None:
    source = np.random.default_rng(1)
    widths = []
    for n in (100, 10_000):
        true = source.integers(0, 2, n)
        predicted = np.where(source.random(n) < 0.8, true, 1 - true)
        low, high = bootstrap_interval(METRICS["accuracy"], predicted, true, n_bootstrap=300)
        assert low < METRICS["accuracy"](predicted, true) < high
        widths.append(high - low)
    # Of a share p among n rows the 95 % interval is 2 * 1.96 * sqrt(p (1 - p) / n) wide.
    assert widths[0] == pytest.approx(2 * 1.96 * 0.4 / 10, rel=0.25)
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.35)


def test_calibration_of_answers_that_know_how_sure_to_be() -> None:
    source = np.random.default_rng(2)
    told = source.uniform(0.5, 1.0, 20_000)
    honest = calibration(told, source.random(20_000) < told)
    boastful = calibration(np.full(1000, 0.99), source.random(1000) < 0.6)
    assert honest["error"] < 0.02
    assert boastful["error"] == pytest.approx(0.39, abs=0.05)
    assert sum(count for _, _, count in honest["bins"]) == 20_000


def test_mcnemar_by_hand() -> None:
    true = np.zeros(60, int)
    first, second = np.zeros(60, int), np.zeros(60, int)
    second[:4] = 1
    assert paired_p_value(METRICS["accuracy"], first, second, true) == pytest.approx(2 / 2**4)
    assert paired_p_value(METRICS["accuracy"], second, first, true) == pytest.approx(2 / 2**4)
    first[4:8] = 1
    assert paired_p_value(METRICS["accuracy"], first, second, true) == 1.0


def test_a_paired_bootstrap_tells_real_differences() -> None:
    generator = np.random.default_rng(0)
    true = generator.normal(size=300)
    good, bad = true + generator.normal(size=300), true + 3 * generator.normal(size=300)
    assert paired_p_value(METRICS["pearson"], good, bad, true) < 0.01
    assert paired_p_value(METRICS["pearson"], good, good + 1e-3 * generator.normal(size=300), true) > 0.05
    assert paired_p_value(METRICS["pearson"], good, good, true) == 1.0
