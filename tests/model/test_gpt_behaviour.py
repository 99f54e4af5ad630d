"""What a GPT of every family keeps: causality, cache, documents, sums, and how it starts."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.model import GPT, ModelConfig, StaticCache, count_parameters, flops_per_token, new_cache
from firstlight.model.cache import CacheGroup, new_store

SHAPES = {
    "gpt1": dict(n_layer=2, n_head=2, n_embd=12),
    "gpt2": dict(n_layer=2, n_head=3, n_embd=12),
    "gpt3": dict(n_layer=3, n_head=2, n_embd=12, window=4),
    "llama": dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=16),
    "modern": dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=16, d_head=6),
}
V, T = 31, 17
every_family = pytest.mark.parametrize("family", SHAPES)


def build(family: str, **more: object) -> GPT:
    model = GPT(ModelConfig(family=family, vocab_size=V, block_size=24, init_std=0.3, **{**SHAPES[family], **more}))
    model.init_weights(torch.Generator().manual_seed(5))
    return model.double().eval()


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, V, (rows, length), generator=torch.Generator().manual_seed(seed))


@every_family
def test_a_position_does_not_know_what_follows(family: str) -> None:
    model, text = build(family), ids(1, T)
    changed = text.clone()
    changed[0, 9:] = (changed[0, 9:] + 7) % V
    with torch.no_grad():
        one, two = model(text), model(changed)
    torch.testing.assert_close(one[:, :9], two[:, :9], rtol=0, atol=1e-12)
    assert (one[:, 9:] - two[:, 9:]).abs().amax() > 1e-3


@every_family
@given(cuts=st.lists(st.integers(1, T - 1), max_size=5))
@settings(max_examples=12, deadline=None)
def test_cached_equals_uncached_in_pieces_of_any_size(family: str, cuts: list[int]) -> None:
    model, text = build(family), ids(2, T)
    cache = new_cache(model.config, 2, T, torch.device("cpu"), torch.float64)
    edges = [0, *sorted(set(cuts)), T]
    with torch.no_grad():
        parts = [model(text[:, a:b], cache=cache) for a, b in zip(edges, edges[1:], strict=False)]
        torch.testing.assert_close(torch.cat(parts, 1), model(text), rtol=0, atol=1e-10)
    assert cache.lengths == [T, T]


@every_family
def test_sequences_of_different_lengths_are_read_as_if_alone(family: str) -> None:
    model, text = build(family), ids(2, 9)
    store = new_store(model.config, 3, 12, torch.device("cpu"), torch.float64)
    with torch.no_grad():
        alone = model(text)
        model(text[:1, :3], cache=StaticCache(store, [2], [0]))
        model(text[1:, :6], cache=StaticCache(store, [1], [0]))
        both = model(torch.stack([text[0, 3:6], text[1, 6:9]]), cache=StaticCache(store, [2, 1], [3, 6]))
    torch.testing.assert_close(both, torch.stack([alone[0, 3:6], alone[1, 6:9]]), rtol=0, atol=1e-10)


@every_family
def test_attention_over_all_rows_at_once_equals_that_over_each(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the rows of the store that are in use are read with a mask."""
    model, text = build(family), ids(3, 12)
    with torch.no_grad():
        alone = model(text)
        whole = lambda cache: [CacheGroup(0, len(cache.rows), tuple(cache.lengths))]  # noqa: E731
        monkeypatch.setattr(StaticCache, "groups", whole)
        store = new_store(model.config, 4, 12, torch.device("cpu"), torch.float64)
        store.fill_(7.0)  # what another sequence has left
        for row, n in enumerate((2, 8, 5)):
            model(text[row : row + 1, :n], cache=StaticCache(store[:, :, row : row + 1], [0], [0]))
        some = torch.stack([text[0, 2:5], text[1, 8:11], text[2, 5:8]])
        found = model(some, cache=StaticCache(store, [0, 1, 2], [2, 8, 5]))
    expected = torch.stack([alone[0, 2:5], alone[1, 8:11], alone[2, 5:8]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@every_family
def test_packed_documents_are_read_as_if_alone(family: str) -> None:
    model = build(family)
    texts = [ids(1, 5, 1), ids(1, 4, 2), ids(1, 8, 3)]
    packed = torch.cat(texts, 1)
    starts = torch.zeros(1, T, dtype=torch.bool)
    starts[0, [0, 5, 9]] = True
    with torch.no_grad():
        alone = torch.cat([model(text) for text in texts], 1)
        torch.testing.assert_close(model(packed, starts=starts), alone, rtol=0, atol=1e-10)
        assert (model(packed) - alone)[:, 5:].abs().amax() > 1e-3


@every_family
@given(seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_rows_may_begin_documents_anywhere(family: str, seed: int) -> None:
    """A row's first document goes on from the row before, so it need not say that it begins."""
    model, text = build(family), ids(2, T, seed)
    starts = torch.rand(2, T, generator=torch.Generator().manual_seed(seed)) < 0.25
    with torch.no_grad():
        packed = model(text, starts=starts)
        for row in range(2):
            edges = [0, *(int(i) for i in starts[row].nonzero() if i > 0), T]
            alone = [model(text[row : row + 1, a:b])[0] for a, b in zip(edges, edges[1:], strict=False)]
            torch.testing.assert_close(packed[row], torch.cat(alone), rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["llama", "modern"])
def test_grouped_heads_are_as_many_heads_with_shared_keys_and_values(family: str) -> None:
    grouped = build(family, n_head=6, n_kv_head=2, d_head=4)
    full = build(family, n_head=6, n_kv_head=6, d_head=4)
    state = grouped.state_dict()
    for name, weight in state.items():
        if "qkv" in name:
            q, *kv = weight.split((24, 8, 8))
            wide = [t.view(2, 4, -1).repeat_interleave(3, dim=0).flatten(0, 1) for t in kv]
            state[name] = torch.cat((q, *wide))
    full.load_state_dict(state)
    cache = new_cache(grouped.config, 2, T, torch.device("cpu"), torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(grouped(ids(2, T)), full(ids(2, T)), rtol=0, atol=1e-10)
        grouped(ids(2, T)[:, :-1], cache=cache)
        last = grouped(ids(2, T)[:, -1:], cache=cache)
        torch.testing.assert_close(last[:, 0], full(ids(2, T))[:, -1], rtol=0, atol=1e-10)


@every_family
def test_weights_of_zero_mean_that_a_target_is_not_learnt(family: str) -> None:
    model, inputs, targets = build(family), ids(2, T), ids(2, T, 1)
    weights = torch.ones(2, T, dtype=torch.float64)
    weights[:, :6] = 0
    changed = targets.clone()
    changed[:, :6] = (changed[:, :6] + 5) % V
    grads = []
    for wanted in (targets, changed):
        model.zero_grad()
        loss = model.loss(inputs, wanted, weights)
        loss.sum.backward()
        assert loss.count == 2 * (T - 6)
        grads.append([loss.sum.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@every_family
def test_a_split_batch_has_the_same_sum_count_and_gradient(family: str) -> None:
    model = build(family)
    inputs, targets = ids(5, T), ids(5, T, 1)
    weights = torch.rand(5, T, generator=torch.Generator().manual_seed(2)).round(decimals=1)
    whole = model.loss(inputs, targets, weights)
    whole.sum.backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    parts = [model.loss(inputs[a:b], targets[a:b], weights[a:b]) for a, b in ((0, 1), (1, 4), (4, 5))]
    sum(p.sum for p in parts).backward()
    torch.testing.assert_close(sum(p.sum for p in parts), whole.sum)
    torch.testing.assert_close(sum(p.count for p in parts), whole.count)
    for a, p in zip(grads, (p for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(p.grad, a)


@every_family
def test_activation_checkpointing_changes_nothing(family: str) -> None:
    model = build(family)
    other = copy.deepcopy(model)
    other.activation_checkpointing = True
    for m in (model, other):
        m.loss(ids(2, T), ids(2, T, 1)).sum.backward()
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("family", ["gpt1", "gpt2", "gpt3"])
def test_dropout_is_drawn_again_alike_when_activations_are_recomputed(family: str) -> None:
    model = build(family, dropout=0.2).train()
    grads = []
    for checkpointing in (False, True):
        model.activation_checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(3)
        model.loss(ids(2, T), ids(2, T, 1)).sum.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    with torch.no_grad():
        drawn = model(ids(2, T))
        assert not torch.equal(drawn, model(ids(2, T)))
        model.eval()
        assert torch.equal(model(ids(2, T)), model(ids(2, T)))


def test_zero_residual_projections_make_every_block_the_identity() -> None:
    model = build("modern", residual_init="zero", tie_embeddings=False)
    logits = model(ids(1, 4))
    assert torch.equal(logits, torch.zeros_like(logits))


def test_gpt3_sees_no_further_than_its_bands_allow() -> None:
    """One banded layer (the second) under one dense layer cannot be told apart; one banded layer alone can."""
    model = build("gpt3", n_layer=2)
    text, changed = ids(1, T), ids(1, T)
    changed[0, 0] = (changed[0, 0] + 1) % V
    with torch.no_grad():
        for p in model.blocks[0].parameters():
            p.zero_()  # the dense layer adds nothing
        far = (model(text) - model(changed))[0].abs().amax(-1)
    assert torch.all(far[:4] > 1e-6) and torch.all(far[4:] < 1e-12)


def test_flops_and_parameters_by_hand() -> None:
    config = ModelConfig(family="gpt2", vocab_size=100, block_size=8, n_layer=2, n_head=2, n_embd=16)
    block = 16 * 48 + 48 + 16 * 16 + 16 + 2 * (16 * 64) + 64 + 16 + 4 * 16
    assert count_parameters(config) == (100 * 16 + 8 * 16 + 2 * block + 32, 108 * 16, 2 * block + 32)
    matrices = 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 16 * 100
    attention = 12 * 16 * 2 * (8 + 1) / 2  # score and mix, forward and backward, 4.5 positions on average
    assert flops_per_token(config, 8) == pytest.approx(6 * matrices + attention)


def test_flops_of_bands_and_of_grouped_gated_heads_by_hand() -> None:
    banded = ModelConfig(family="gpt3", vocab_size=10, block_size=8, n_layer=2, n_head=2, n_embd=16, window=3)
    seen = (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8) / 8 + (1 + 2 + 3 + 3 + 3 + 3 + 3 + 3) / 8
    matrices = 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 16 * 10
    assert flops_per_token(banded, 8) == pytest.approx(6 * matrices + 12 * 16 * seen)
    gated = ModelConfig(vocab_size=10, n_layer=1, n_head=4, n_kv_head=2, d_head=6, n_embd=16, d_ff=20)
    matrices = 16 * 24 * 2 + 2 * 16 * 12 + 3 * 16 * 20 + 16 * 10
    assert flops_per_token(gated, 1) == pytest.approx(6 * matrices + 12 * 24)


@pytest.mark.slow
@every_family
def test_compiled_equals_eager(family: str) -> None:
    model = build(family).float()
    compiled = torch.compile(model.loss, dynamic=False)
    starts = torch.rand(2, T, generator=torch.Generator().manual_seed(1)) < 0.2
    for more in ({}, {"starts": starts}):
        grads = []
        for loss in (model.loss, compiled):
            model.zero_grad()
            total = loss(ids(2, T), ids(2, T, 1), **more).sum
            total.backward()
            grads.append([total.detach(), *(p.grad.clone() for p in model.parameters())])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
