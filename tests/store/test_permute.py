"""The keyed permutation: each value once, evenly spread, the same ones each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.store import permute, round_keys


@settings(deadline=None, max_examples=200)
@given(
    n=st.integers(1, 3000) | st.sampled_from([2**k + d for k in range(2, 13) for d in (-1, 0, 1)]), seed=st.integers()
)
def test_every_value_comes_once(n: int, seed: int) -> None:
    out = permute(np.arange(n), n, round_keys(seed))
    assert out.dtype == np.int64
    assert sorted(out.tolist()) == list(range(n))


@settings(deadline=None)
@given(n=st.integers(1, 10**15), seed=st.integers(), data=st.data())
def test_any_place_by_itself(n: int, seed: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)), dtype=np.int64)
    together = permute(places, n, round_keys(seed))
    assert ((together >= 0) & (together < n)).all()
    assert [int(permute(places[i : i + 1], n, round_keys(seed))[0]) for i in range(len(places))] == together.tolist()
    assert len(set(together.tolist())) == len(set(places.tolist()))


def test_no_places() -> None:
    assert permute(np.zeros(0, np.int64), 5, round_keys(1)).tolist() == []


@pytest.mark.parametrize(
    ("n", "rounds"),
    [
        (2, 3000),
        (5, 3000),
        (33, 1500),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, 3000), (8, 3000), (10, 2000))),
    ],
)
def test_every_place_gets_every_value_about_equally_often(n: int, rounds: int) -> None:
    counts = np.zeros((n, n))
    for seed in range(rounds):
        counts[np.arange(n), permute(np.arange(n), n, round_keys("uniform", seed))] += 1
    # Chi-squared of one place has n - 1 degrees of freedom; six deviations above its mean is not chance.
    expected = rounds / n
    chi = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert chi.max() < (n - 1) + 6 * np.sqrt(2 * (n - 1))


def test_neighbours_are_torn_apart() -> None:
    n = 10_000
    out = permute(np.arange(n), n, round_keys(3))
    distances = np.abs(np.diff(out))
    assert abs(distances.mean() / n - 1 / 3) < 0.02
    assert (distances == 1).mean() < 0.002
    assert abs(np.corrcoef(np.arange(n), out)[0, 1]) < 0.05


def test_keys_tell_values_and_types_apart() -> None:
    made = [round_keys(*parts) for parts in ((1,), (2,), (1, 0), ("1",), (1, "mix", 0), (1, "mix", 1))]
    assert len({tuple(k.tolist()) for k in made}) == len(made)
    assert round_keys(7, "a").tolist() == round_keys(7, "a").tolist()


def test_the_order_is_the_same_on_every_machine() -> None:
    # A run that goes on elsewhere, or with newer code, must see the same order; these values are of the first version.
    assert permute(np.arange(10), 10, round_keys(1337, 0, 0)).tolist() == [2, 7, 8, 6, 1, 9, 3, 5, 4, 0]
