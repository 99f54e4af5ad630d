"""Batches one step ahead: right whatever was guessed."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.train.prefetch import Prefetcher
from firstlight.types import Batch


def load_batch(position: int, rows: int) -> Batch:
    ids = torch.arange(position, position + rows)[:, None]
    return Batch(ids, ids + 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 4), st.integers(0, 50)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_wrong_guesses_are_harmless(asked: list[tuple[int, int, int]]) -> None:
    with Prefetcher(load_batch) as prefetcher:
        for position, rows, following in asked:
            assert torch.equal(prefetcher.get(position, rows, following).inputs, load_batch(position, rows).inputs)


def test_the_next_batch_is_read_meanwhile() -> None:
    begun = threading.Event()
    calls: list[tuple[int, bool]] = []

    def slow(position: int, rows: int) -> Batch:
        calls.append((position, threading.current_thread() is threading.main_thread()))
        if position == 4:
            begun.set()
        return load_batch(position, rows)

    with Prefetcher(slow) as prefetcher:
        prefetcher.get(0, 4, 4)
        assert begun.wait(10), "nobody asked for it yet"
        prefetcher.get(4, 4, 8)
    assert calls[:2] == [(0, True), (4, False)]
    assert [p for p, _ in calls].count(4) == 1, "and it is not read again"


def test_errors_surface_where_the_batch_is_taken() -> None:
    def broken(position: int, rows: int) -> Batch:
        if position == 4:
            raise OSError("the disk is gone")
        return load_batch(position, rows)

    with Prefetcher(broken) as prefetcher:
        prefetcher.get(0, 4, 4)
        with pytest.raises(OSError, match="the disk is gone"):
            prefetcher.get(4, 4, 8)
    with Prefetcher(broken) as prefetcher:
        prefetcher.get(0, 4, 4)
        assert torch.equal(prefetcher.get(8, 4, 12).inputs, load_batch(8, 4).inputs), (
            "an error of a wrong guess is dropped"
        )


def test_closing_ends_its_thread() -> None:
    with Prefetcher(load_batch) as prefetcher:
        prefetcher.get(0, 4, 4)
    assert not [t for t in threading.enumerate() if t.name.startswith("feed")]
