"""The mixture: every row once before any twice, shares as asked for, and the same batch for the same position."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.finetuning.mixture import Mixture, mixing_fractions


@dataclass
class Numbers:
    """A task whose batches are the numbers of its rows."""

    name: str
    n_rows: int

    def batch(self, numbers: np.ndarray) -> tuple[str, list[int]]:
        return self.name, numbers.tolist()

    def where(self, number: int) -> str:
        return f"{self.name}:{number}"


def made(sizes: list[int], rows: int, mixing: str | float = "proportional", **fixed: float) -> Mixture:
    members = [Numbers(f"t{i}", n) for i, n in enumerate(sizes)] + [Numbers(name, 1000) for name in fixed]
    return Mixture.plan(members, rows=rows, mixing=mixing, fixed=fixed, seed=3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(1, 16))
def test_every_row_comes_before_any_comes_again(sizes: list[int], rows: int) -> None:
    mixture = made(sizes, rows)
    seen: dict[str, list[int]] = {f"t{i}": [] for i in range(len(sizes))}
    for update in range(3 * mixture.updates_per_epoch):
        name, numbers = mixture.batch(update * rows, rows)
        seen[name] += numbers
    for i, n in enumerate(sizes):
        counts = Counter(seen[f"t{i}"])
        assert set(counts) <= set(range(n))
        assert len(counts) == n, "three epochs cover all rows"
        assert max(counts.values()) - min(counts.get(k, 0) for k in range(n)) <= 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 500), st.integers(2, 8))
def test_pieces_of_an_update_are_the_update(update: int, ranks: int) -> None:
    rows = 8 * ranks
    mixture = made([100, 37], rows)
    name, whole = mixture.batch(update * rows, rows)
    parts = [mixture.batch(update * rows + rank * 8, 8) for rank in range(ranks)]
    assert {part[0] for part in parts} == {name}
    assert [n for part in parts for n in part[1]] == whole
    assert mixture.sources(update * rows, rows) == [f"{name}:{n}" for n in whole]


def test_shares() -> None:
    assert mixing_fractions([900, 100], "proportional") == pytest.approx([0.9, 0.1])
    assert mixing_fractions([900, 100], "equal") == pytest.approx([0.5, 0.5])
    assert mixing_fractions([900, 100], 2.0) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize(("mixing", "expected"), [("proportional", [90, 10]), ("equal", [50, 50]), (2.0, [75, 25])])
def test_updates_follow_the_shares(mixing: str | float, expected: list[int]) -> None:
    mixture = made([900, 100], 10, mixing)
    assert list(mixture.updates) == expected
    names = Counter(mixture.batch(u * 10, 10)[0] for u in range(mixture.updates_per_epoch))
    assert [names["t0"], names["t1"]] == expected


def test_a_replay_has_its_share_of_the_whole() -> None:
    mixture = made([800], 8, replay=0.2)
    assert mixture.updates_per_epoch == 125, "a hundred of the task, and a fifth of all is replay"
    names = Counter(mixture.batch(u * 8, 8)[0] for u in range(125))
    assert names == {"t0": 100, "replay": 25}


def test_another_seed_another_order() -> None:
    mixture = made([64, 64], 8)
    other = Mixture(mixture.members, mixture.updates, mixture.rows, 4)
    assert [mixture.batch(u * 8, 8) for u in range(16)] != [other.batch(u * 8, 8) for u in range(16)]
