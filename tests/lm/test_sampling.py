import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from firstlight.config import resolve
from firstlight.errors import CheckpointError, ConfigError
from firstlight.lm import GenerateSettings, sample_tokens
from firstlight.lm.sampling import random_numbers, token_logprob


def uniform(seed: int, streams: range) -> torch.Tensor:
    """The first number of each stream."""
    return torch.tensor([random_numbers(seed, stream).random() for stream in streams], dtype=torch.float64)


def kept(logits: list[float], s: GenerateSettings) -> tuple[list[bool], list[float]]:
    """Which tokens may be chosen, and their weights, by the definitions and in Python's floats."""
    top = max(logits)
    score = [(x - top) / s.temperature for x in logits]
    weight = [math.exp(x) for x in score]
    order = sorted(range(len(logits)), key=lambda i: (-score[i], i))
    order = sorted(order[: s.top_k or None], key=lambda i: (-weight[i], i))
    whole, before, nucleus = math.fsum(weight[i] for i in order), 0.0, []
    for i in order:
        if s.top_p == 1 or before < s.top_p * whole or not nucleus:
            nucleus.append(i)
        before += weight[i]
    left = {i for i in nucleus if weight[i] >= s.min_p}
    return [i in left for i in range(len(logits))], weight


def wanted(logits: list[float], s: GenerateSettings, u: float) -> tuple[int, float]:
    """The token at ``u``, and how far ``u`` is from the border of another one."""
    allowed, weight = kept(logits, s)
    whole = math.fsum(w for w, a in zip(weight, allowed, strict=True) if a)
    ladder = np.cumsum([w / whole if a else 0.0 for w, a in zip(weight, allowed, strict=True)])
    at = int(np.searchsorted(ladder, u, side="right"))
    margin = min(abs(u - x) for x in ladder)
    return at, margin


# On a grid, so that two are equal or well apart in any arithmetic.
LOGITS = st.lists(st.integers(-1920, 1920).map(lambda i: i / 64), min_size=1, max_size=40)
SETTINGS = st.builds(
    GenerateSettings,
    temperature=st.floats(0.05, 20),
    top_k=st.integers(0, 45),
    top_p=st.floats(0.01, 1),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.2, 1.0]),
)


@given(LOGITS, SETTINGS, st.floats(0, 1, exclude_max=True))
@settings(max_examples=300, deadline=None)
def test_choose_inverts_the_distribution_of_the_definition(logits, s, u):
    token, margin = wanted(logits, s, u)
    before = np.cumsum(sorted(kept(logits, s.model_copy(update={"top_p": 1.0, "min_p": 0.0}))[1], reverse=True))
    assume(margin > 1e-9)
    assume(np.abs(before / before[-1] - s.top_p).min() > 1e-9 or s.top_p == 1)
    (found,) = sample_tokens(torch.tensor([logits]), s, torch.tensor([u], dtype=torch.float64)).tolist()
    assert found == token


@given(LOGITS, SETTINGS)
@settings(max_examples=200, deadline=None)
def test_the_ends_of_the_unit_interval_choose_the_first_and_last_allowed_token(logits, s):
    allowed = [i for i, a in enumerate(kept(logits, s)[0]) if a]
    rows = torch.tensor([logits, logits, logits])
    ends = torch.tensor([0.0, 1 - 2**-53, np.nextafter(np.float64(1), 0)], dtype=torch.float64)
    low, high, highest = sample_tokens(rows, s, ends).tolist()
    assert 0 <= low < len(logits)
    assert low in allowed
    assert high == highest
    assert high in allowed


@pytest.mark.parametrize(
    ("name", "value", "warper"),
    [
        ("top_k", 7, transformers.TopKLogitsWarper(7)),
        ("top_k", 500, transformers.TopKLogitsWarper(500)),
        ("top_p", 0.9, transformers.TopPLogitsWarper(0.9)),
        ("top_p", 0.999, transformers.TopPLogitsWarper(0.999)),
        ("top_p", 0.05, transformers.TopPLogitsWarper(0.05)),
        ("min_p", 0.1, transformers.MinPLogitsWarper(0.1)),
        ("min_p", 0.001, transformers.MinPLogitsWarper(0.001)),
    ],
)
def test_the_allowed_tokens_are_those_of_transformers(name, value, warper):
    logits = torch.randn(6, 400, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[0.1], [1], [2], [4], [8], [20]]
    )
    theirs = warper(None, logits.clone()).isfinite()
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for row, allowed in zip(logits, theirs, strict=True):
        s = GenerateSettings(**{name: value})
        assert [bool(a) for a in allowed] == kept(row.tolist(), s)[0]
        found = set(sample_tokens(row.expand(len(u), -1), s, u).tolist())
        assert found <= set(allowed.nonzero().flatten().tolist())


@pytest.mark.parametrize(
    "s",
    [
        GenerateSettings(),
        GenerateSettings(temperature=0.5),
        GenerateSettings(temperature=2.0, top_k=5),
        GenerateSettings(top_p=0.8),
        GenerateSettings(min_p=0.2),
        GenerateSettings(temperature=1.5, top_k=9, top_p=0.9, min_p=0.05),
    ],
    ids=str,
)
def test_frequencies_are_the_probabilities(s):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3)) * 1.5
    allowed, weight = kept(logits.tolist(), s)
    p = np.array([w if a else 0 for w, a in zip(weight, allowed, strict=True)])
    p /= p.sum()
    n = 20_000
    seen = np.bincount(sample_tokens(logits.expand(n, -1), s, uniform(1, range(n))).numpy(), minlength=12)
    assert seen[p == 0].sum() == 0
    chi_square = (((seen - n * p) ** 2)[p > 0] / (n * p[p > 0])).sum()
    freedom = max(1, (p > 0).sum() - 1)
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_temperature_nought_takes_the_likeliest_and_the_first_of_equals():
    logits = torch.tensor([[1.0, 3.0, 3.0], [5.0, 5.0, 4.0], [-torch.inf, -2.0, -3.0]])
    nought = GenerateSettings(temperature=0)
    assert sample_tokens(logits, nought, None).tolist() == [1, 0, 1]
    assert sample_tokens(logits, nought, torch.full((3,), 0.99, dtype=torch.float64)).tolist() == [1, 0, 1]


@pytest.mark.parametrize("temperature", [1e-300, 1e-12, 1e-4])
def test_the_smallest_temperatures_are_greedy(temperature):
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(1))
    u = torch.linspace(0.001, 0.999, 5, dtype=torch.float64)
    assert sample_tokens(logits, GenerateSettings(temperature=temperature), u).equal(logits.argmax(-1))


def test_equal_tokens_are_counted_and_the_lower_ids_come_first():
    logits = torch.zeros(1000, 300)
    u = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    assert set(sample_tokens(logits, GenerateSettings(top_k=3), u).tolist()) == {0, 1, 2}
    assert set(sample_tokens(logits, GenerateSettings(top_p=0.5), u).tolist()) == set(range(150))
    assert set(sample_tokens(logits, GenerateSettings(top_p=0.9), u).tolist()) == set(range(270))
    logits[:, 299] = 1
    assert set(sample_tokens(logits, GenerateSettings(top_k=3), u).tolist()) == {0, 1, 299}


def test_a_barred_token_is_never_chosen():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    u = torch.linspace(0, np.nextafter(1.0, 0.0), 100, dtype=torch.float64)
    for s in (
        GenerateSettings(),
        GenerateSettings(top_p=0.99),
        GenerateSettings(top_k=4),
        GenerateSettings(min_p=0.01),
    ):
        assert set(sample_tokens(logits.expand(100, -1), s, u).tolist()) == {1, 3}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("s", [GenerateSettings(), GenerateSettings(temperature=0)], ids=["sampled", "greedy"])
def test_logits_that_are_not_finite_are_refused(bad, s):
    logits = torch.zeros(2, 5)
    logits[1, 3] = bad
    with pytest.raises(CheckpointError, match="not finite"):
        sample_tokens(logits, s, torch.zeros(2, dtype=torch.float64))
    with pytest.raises(CheckpointError, match="not finite"):
        sample_tokens(torch.full((1, 4), -torch.inf), s, torch.zeros(1, dtype=torch.float64))


@pytest.mark.slow
def test_a_large_vocabulary_in_half_precision():
    logits = (torch.randn(3, 50_000, generator=torch.Generator().manual_seed(0)) * 2).bfloat16()
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    for s in (GenerateSettings(), GenerateSettings(top_p=0.999), GenerateSettings(top_k=40_000, top_p=0.99999)):
        found = sample_tokens(logits, s, u).tolist()
        for row, token, x in zip(logits, found, u.tolist(), strict=True):
            assert kept(row.tolist(), s)[0][token]
            assert wanted(row.tolist(), s, x)[0] == token or wanted(row.tolist(), s, x)[1] < 1e-12


def test_a_row_depends_on_its_own_number_only():
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).round()  # many are equal
    u = uniform(5, range(40))
    for s in (GenerateSettings(), GenerateSettings(top_k=4, top_p=0.7), GenerateSettings(top_p=0.99, min_p=0.01)):
        together = sample_tokens(logits, s, u).tolist()
        assert together == [sample_tokens(logits[i : i + 1], s, u[i : i + 1]).item() for i in range(40)]


def test_the_largest_number_never_steps_over_the_last_token():
    logits = torch.randn(20_000, 7, generator=torch.Generator().manual_seed(0))
    logits[:, 4:] = -torch.inf
    u = torch.full((20_000,), 1 - 2**-53, dtype=torch.float64)
    assert sample_tokens(logits, GenerateSettings(), u).eq(3).all()


def test_each_stream_has_numbers_of_its_own():
    streams = np.array([random_numbers(7, stream).random(50) for stream in range(4)])
    assert (streams[2] == random_numbers(7, 2).random(50)).all()
    assert len(set(streams.flatten().tolist())) == 200
    assert random_numbers(8, 2).random() != random_numbers(7, 2).random()
    assert random_numbers(7 + 2**32, 2).random() != random_numbers(7, 2).random()
    assert 0 <= streams.min() <= streams.max() < 1


def test_log_probabilities_are_those_at_the_temperature():
    logits = torch.tensor([0.0, 1.0, 3.0])
    expected = torch.log_softmax(logits.double() / 0.5, 0)[1].item()
    assert token_logprob(logits, 1, 0.5) == pytest.approx(expected, abs=1e-12)
    assert token_logprob(logits, 1, 0) == token_logprob(logits, 1, 1)


def test_dice_are_uniform_and_rows_do_not_follow_one_another():
    rows = torch.stack([uniform(seed, range(2000)) for seed in range(5)])
    counts = torch.histc(rows.flatten(), 20, 0, 1)
    assert ((counts - 500) ** 2 / 500).sum() < 19 + 4 * math.sqrt(38)
    centred = rows - 0.5
    assert abs((centred[:, 1:] * centred[:, :-1]).mean() * 12) < 0.05
    assert abs((centred[1:] * centred[:-1]).mean() * 12) < 0.05


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("max_new_tokens", 0),
        ("num_samples", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", "x"),
    ],
)
def test_settings_that_mean_nothing_are_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        resolve(GenerateSettings, {key: value})
