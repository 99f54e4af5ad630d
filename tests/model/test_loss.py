"""The chunked loss against the plain one, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.model import GPT, ModelConfig, linear_cross_entropy, linear_nll
from firstlight.model import loss as loss_module


def case(rows: int, T: int, vocabulary: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(rows * 1000 + T * 100 + vocabulary)
    hidden = torch.randn(rows, T, 6, generator=g, dtype=torch.float64)
    head = torch.randn(vocabulary, 6, generator=g, dtype=torch.float64)
    targets = torch.randint(0, vocabulary, (rows, T), generator=g)
    return hidden, head, targets, torch.rand(rows, T, generator=g, dtype=torch.float64)


def plain(hidden, head, targets, weights):
    nats = -(hidden @ head.t()).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    return nats, nats.sum() if weights is None else (nats * weights).sum()


@given(
    rows=st.integers(1, 4),
    T=st.integers(1, 30),
    vocabulary=st.integers(1, 60),
    chunk=st.integers(1, 40),
    weighted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradients_at_any_chunk_border(rows, T, vocabulary, chunk, weighted) -> None:
    hidden, head, targets, weights = case(rows, T, vocabulary)
    weights = weights if weighted else None
    ours = [t.clone().requires_grad_() for t in (hidden, head)]
    theirs = [t.clone().requires_grad_() for t in (hidden, head)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "_chunk_rows", lambda *_: chunk)
        loss = linear_cross_entropy(*ours, targets, weights)
        nats, wanted = plain(*theirs, targets, weights)
        torch.testing.assert_close(loss.sum, wanted, rtol=1e-12, atol=1e-12)
        (loss.sum * -0.7).backward()
        (wanted * -0.7).backward()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            torch.testing.assert_close(linear_cross_entropy(hidden, head, targets, weights).sum, wanted.detach())
            torch.testing.assert_close(linear_nll(hidden, head, targets), nats.detach())


def test_a_chunk_is_bounded_by_its_bytes_and_never_tiny() -> None:
    rows = torch.empty(5000, 2)
    assert loss_module._chunk_rows(rows, torch.empty(50_257, 2)) * 50_257 * 4 <= 24 << 20
    assert loss_module._chunk_rows(rows, torch.empty(2_000_000, 2)) == 16
    assert loss_module._chunk_rows(rows, torch.empty(65, 2)) == 5000


@pytest.mark.parametrize("vocabulary", [50, 3000])
def test_a_weight_of_zero_takes_a_target_out(vocabulary: int) -> None:
    hidden, head, targets, weights = case(2, 9, vocabulary)
    weights[0, 3:7] = 0
    changed = targets.clone()
    changed[0, 3:7] = (changed[0, 3:7] + 1) % vocabulary
    grads = []
    for wanted in (targets, changed):
        h = hidden.clone().requires_grad_()
        loss = linear_cross_entropy(h, head, wanted, weights)
        loss.sum.backward()
        grads.append((loss.sum.detach(), loss.count, h.grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert torch.equal(grads[0][2][0, 3:7], torch.zeros(4, 6, dtype=torch.float64))
    assert grads[0][2][0, 2].abs().amax() > 0


def test_all_weights_zero_is_a_loss_of_zero_over_zero_targets() -> None:
    hidden, head, targets, weights = case(1, 5, 20)
    h = hidden.requires_grad_()
    loss = linear_cross_entropy(h, head, targets, weights * 0)
    loss.sum.backward()
    assert loss == (0.0, 0.0)
    assert torch.equal(h.grad, torch.zeros_like(h))


def test_the_count_of_unweighted_targets_is_their_number() -> None:
    hidden, head, targets, _ = case(3, 7, 20)
    assert linear_cross_entropy(hidden, head, targets).count == 21


@pytest.mark.parametrize("vocabulary", [50, 3000])
def test_half_precision_logits_are_summed_in_full(vocabulary: int) -> None:
    hidden, head, targets, _ = case(4, 30, vocabulary)
    low = linear_cross_entropy(hidden.bfloat16(), head.bfloat16(), targets)
    assert low.sum.dtype == torch.float32
    _, wanted = plain(hidden.bfloat16().double(), head.bfloat16().double(), targets, None)
    assert low.sum.item() == pytest.approx(wanted.item(), rel=5e-3)
    assert linear_nll(hidden.bfloat16(), head.bfloat16(), targets).dtype == torch.float32


@pytest.mark.parametrize("vocabulary", [31, 2500])
def test_autocast_gives_full_precision_gradients_near_the_exact_ones(vocabulary: int) -> None:
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=vocabulary, block_size=16))
    model.init_weights(torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(0, vocabulary, (4, 17), generator=g)
    grads = []
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.sum.backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
        grads.append((loss.sum.item(), {n: p.grad.flatten() for n, p in model.named_parameters()}))
    assert grads[1][0] == pytest.approx(grads[0][0], rel=2e-3)
    for name, exact in grads[0][1].items():
        assert torch.nn.functional.cosine_similarity(exact, grads[1][1][name], 0) > 0.98, name


def test_token_nats_leave_no_graph_and_add_up_to_the_loss() -> None:
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=40, block_size=16))
    model.init_weights(torch.Generator().manual_seed(0))
    ids = torch.randint(0, 40, (2, 11), generator=torch.Generator().manual_seed(1))
    nats = model.token_nll(ids[:, :-1], ids[:, 1:])
    assert not nats.requires_grad and nats.shape == (2, 10)
    torch.testing.assert_close(nats.sum(), model.loss(ids[:, :-1], ids[:, 1:]).sum.detach())


def test_the_loss_gives_its_gradients_once() -> None:
    hidden, head = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, head, torch.zeros(2, 3, dtype=torch.long)).sum
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
