"""What a GPT of every family keeps: causality, cache, documents, sums, and how it starts."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.model import GPT, ModelConfig, flops_per_token, n_parameters, new_cache
from firstlight.model.loss import head_loss, head_nats

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
    assert cache.length == T


@every_family
def test_padding_at_the_left_changes_nothing(family: str) -> None:
    model, text = build(family), ids(1, 9)
    cache = new_cache(model.config, 2, 12, torch.device("cpu"), torch.float64)
    cache.pad = torch.tensor([3, 0])
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), text], 1)
    with torch.no_grad():
        alone = model(text)
        both = model(torch.cat([padded[:, :10], ids(1, 10, 3)]), cache=cache)
        more = model(torch.cat([padded[:, 10:], ids(1, 2, 4)]), cache=cache)
    torch.testing.assert_close(torch.cat([both[0, 3:], more[0]]), alone[0], rtol=0, atol=1e-10)


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


@every_family
def test_a_new_model_is_drawn_as_declared(family: str) -> None:
    config = ModelConfig(family=family, vocab_size=300, block_size=64, n_layer=2, n_head=4, n_embd=128)
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(0))
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert torch.equal(p, torch.full_like(p, 1.0 if "norm" in name and name.endswith("weight") else 0.0)), name
            continue
        residual = name.endswith(("out.weight", "down.weight"))
        expected = 0.02 / 2 if residual else 0.02  # sqrt(2 n_layer) = 2
        part = p[config.n_embd :] if family == "gpt3" and "qkv" in name else p
        assert part.std().item() == pytest.approx(expected, rel=0.05), name
        assert abs(part.mean().item()) < 1e-3, name
    if family == "gpt3":
        q = model.blocks[0].attention.qkv.weight[: config.n_embd]
        assert q.std().item() == pytest.approx(0.02 * 32**-0.5, rel=0.05)


def test_zero_residual_projections_make_every_block_the_identity() -> None:
    model = build("modern", init_out="zero", tie_embeddings=False)
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


@pytest.mark.parametrize("vocabulary", [40, 3000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_equals_the_plain_one_in_value_and_gradient(vocabulary: int, weighted: bool, monkeypatch) -> None:
    from firstlight.model import loss as room

    monkeypatch.setattr(room, "_CHUNK_BYTES", {"cpu": 4 * vocabulary * 7})
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 19, 8, generator=g, requires_grad=True)
    head = torch.randn(vocabulary, 8, generator=g, requires_grad=True)
    targets = torch.randint(0, vocabulary, (3, 19), generator=g)
    weights = torch.rand(3, 19, generator=g).round() if weighted else None
    ours = head_loss(hidden, head, targets, weights)
    (ours.sum * 0.3).backward()
    got = hidden.grad.clone(), head.grad.clone()
    h, w = hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_()
    nats = -(h @ w.t()).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    plain = nats.sum() if weights is None else (nats * weights).sum()
    (plain * 0.3).backward()
    torch.testing.assert_close(ours.sum.double(), plain, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(got[0].double(), h.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1].double(), w.grad, rtol=1e-4, atol=1e-5)
    if weights is not None:
        assert torch.equal(got[0][weights == 0], torch.zeros_like(got[0][weights == 0]))
        assert ours.count == weights.sum()
    with torch.no_grad():
        torch.testing.assert_close(head_loss(hidden, head, targets, weights).sum, ours.sum.detach())
        torch.testing.assert_close(head_nats(hidden, head, targets).double(), nats.detach(), rtol=1e-5, atol=1e-5)


def test_the_chunked_loss_under_autocast_is_near_the_exact_one() -> None:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 16, 32, generator=g, requires_grad=True)
    head = (torch.randn(2100, 32, generator=g) * 0.2).requires_grad_()
    targets = torch.randint(0, 2000, (2, 16), generator=g)
    exact = head_loss(hidden, head, targets)
    exact.sum.backward()
    wanted, hidden.grad = hidden.grad.clone(), None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = head_loss(hidden, head, targets)
    low.sum.backward()
    assert low.sum.item() == pytest.approx(exact.sum.item(), rel=0.01)
    assert torch.nn.functional.cosine_similarity(hidden.grad.flatten(), wanted.flatten(), 0) > 0.99


def test_flops_and_parameters_by_hand() -> None:
    config = ModelConfig(family="gpt2", vocab_size=100, block_size=8, n_layer=2, n_head=2, n_embd=16)
    block = 16 * 48 + 48 + 16 * 16 + 16 + 2 * (16 * 64) + 64 + 16 + 4 * 16
    assert n_parameters(config) == (100 * 16 + 8 * 16 + 2 * block + 32, 108 * 16, 2 * block + 32)
    matrices = 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 16 * 100
    attention = 12 * 16 * 2 * (8 + 1) / 2  # score and mix, forward and backward, 4.5 positions on average
    assert flops_per_token(config, 8) == pytest.approx(6 * matrices + attention)


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    model = build("modern").float()
    compiled = copy.deepcopy(model)
    compiled.compile()
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids(2, T)), model(ids(2, T)), rtol=1e-4, atol=1e-4)
