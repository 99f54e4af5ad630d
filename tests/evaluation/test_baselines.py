import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.evaluation import baseline_likelihoods, count_ids


def test_counts_are_those_of_bincount(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["firstlight.evaluation.baselines"], "_CHUNK", 7)
    ids = np.random.default_rng(0).integers(0, 50, 40).astype(np.int32)
    ids[-1] = 80
    ids.tofile(tmp_path / "ids")
    assert np.array_equal(count_ids(np.memmap(tmp_path / "ids", np.int32)), np.bincount(ids))
    assert count_ids(np.zeros(0, np.int32)).tolist() == []


def test_uniform_and_unigram_by_hand():
    train, seen = np.array([5, 0, 2]), np.array([1, 0, 0, 3])
    found = baseline_likelihoods(4, train, seen, None)
    assert found.keys() == {"uniform", "unigram"}
    assert found["uniform"].loss == pytest.approx(math.log(4))
    # With one added to each of 4 ids: 6, 1, 3, 1 of 11.
    assert found["unigram"].loss == pytest.approx((math.log(11 / 6) + 3 * math.log(11)) / 4)
    assert baseline_likelihoods(4, None, seen, None).keys() == {"uniform"}
    assert baseline_likelihoods(4, train, np.zeros(4), None) == {}


def test_bits_per_byte_leave_end_of_text_out():
    # Ids 0 and 1 stand for 1 and 3 bytes, 2 is end-of-text.
    lengths, train, seen = np.array([1, 3, 0]), np.array([7, 1, 1]), np.array([4, 2, 1])
    found = baseline_likelihoods(3, train, seen, lengths)
    assert found["uniform"].loss == pytest.approx(math.log(3))
    assert found["uniform"].perplexity == pytest.approx(3)
    assert found["uniform"].bits_per_byte == pytest.approx(6 * math.log2(3) / 10)
    nats = [math.log(12 / 8), math.log(12 / 2), math.log(12 / 2)]
    assert found["unigram"].loss == pytest.approx((4 * nats[0] + 2 * nats[1] + nats[2]) / 7)
    assert found["unigram"].bits_per_byte == pytest.approx((4 * nats[0] + 2 * nats[1]) / math.log(2) / 10)


def test_ids_that_stand_for_no_bytes_have_no_bits_per_byte():
    assert baseline_likelihoods(3, None, np.array([1, 2]), None)["uniform"].bits_per_byte is None


def test_a_model_may_have_more_ids_than_its_tokenizer():
    found = baseline_likelihoods(300, None, np.array([1, 2, 5]), np.array([1, 1]))
    assert found["uniform"].bits_per_byte == pytest.approx(math.log2(300))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.lists(st.integers(0, 9), max_size=60))
@settings(max_examples=60, deadline=None)
def test_unigram_is_a_distribution_and_the_best_one_for_its_own_text(seen, train):
    seen_counts = np.bincount(seen, minlength=10)
    found = baseline_likelihoods(10, np.bincount(train, minlength=10), seen_counts, None)
    p = np.exp(
        [
            -baseline_likelihoods(10, np.bincount(train, minlength=10), np.eye(10, dtype=int)[i], None)["unigram"].loss
            for i in range(10)
        ]
    )
    assert p.sum() == pytest.approx(1)
    assert p.min() > 0
    share = seen_counts / seen_counts.sum()
    entropy = -sum(x * math.log(x) for x in share if x)
    assert found["unigram"].loss >= entropy - 1e-9
    many = baseline_likelihoods(10, seen_counts * 10_000_000, seen_counts, None)["unigram"].loss
    assert many == pytest.approx(entropy, abs=1e-4)
