"""What pixels that know nothing of each other would score."""

import math
import sys

import numpy as np
import pytest

from firstlight.evaluation import Likelihood, position_baseline


@pytest.mark.parametrize("chunk", [7, 1 << 24])
def test_each_place_has_shares_of_its_own(monkeypatch: pytest.MonkeyPatch, chunk: int):
    monkeypatch.setattr(sys.modules["firstlight.evaluation.baselines"], "_CHUNK", chunk)
    dice = np.random.default_rng(0)
    train, valid = dice.integers(0, 3, (50, 4)).astype(np.uint16), dice.integers(0, 5, (20, 4)).astype(np.uint16)
    nats = 0.0
    for row in valid:
        for place, value in enumerate(row):
            nats -= math.log(((train[:, place] == value).sum() + 1) / (50 + 5))
    found = position_baseline(train, valid, 5)
    assert found.loss == pytest.approx(nats / 80)
    assert found.bits_per_byte is None


def test_figures_say_bytes_only_where_there_are_some():
    assert Likelihood.from_loss(1.0, 2.0, 4).metrics() == {
        "loss": 1.0,
        "perplexity": math.e,
        "bits_per_byte": 2 / math.log(2) / 4,
    }
    assert Likelihood.from_loss(1.0, 0.0, 0).metrics("dim") == {
        "loss": 1.0,
        "perplexity": math.e,
        "bits_per_dim": 1 / math.log(2),
    }
