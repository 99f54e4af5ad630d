"""Attention in blocks against torch's in float64, and when it is taken."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.model import GPT, ModelConfig
from firstlight.model import attention as model_attention
from firstlight.model.kernels import attention


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(B=st.integers(1, 3), H=st.integers(1, 3), T=st.sampled_from([2, 5, 63, 64, 65, 130]), D=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_value_and_gradients_equal_torchs(B: int, H: int, T: int, D: int) -> None:
    # As the model hands them over: (B, T, H, D) in memory.
    ours, plain = ([drawn(B, T, H, D, seed=i).transpose(1, 2).requires_grad_() for i in range(3)] for _ in range(2))
    y = attention.blocked_causal_attention(*ours, 0.7)
    wanted = F.scaled_dot_product_attention(*plain, is_causal=True, scale=0.7)
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    slope = drawn(B, T, H, D, seed=4).transpose(1, 2)
    for a, b in zip(torch.autograd.grad(y, ours, slope), torch.autograd.grad(wanted, plain, slope), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_large_scores_stay_finite() -> None:
    q = (1e4 * drawn(1, 2, 70, 4, seed=0, dtype=torch.float32)).requires_grad_()
    y = attention.blocked_causal_attention(q, q, q, 1.0)
    y.sum().backward()
    assert y.isfinite().all()
    assert q.grad is not None and q.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "K", "dtype", "yes"),
    [
        ((2, 4, 64, 32), 4, torch.float32, True),
        ((2, 4, 256, 32), 4, torch.float32, True),
        ((2, 4, 257, 32), 4, torch.float32, False),
        ((2, 4, 1, 32), 4, torch.float32, False),
        ((2, 4, 64, 32), 2, torch.float32, False),
        ((2, 4, 64, 32), 4, torch.bfloat16, False),
    ],
)
def test_short_texts_of_ungrouped_heads_suit(shape: tuple[int, ...], K: int, dtype: torch.dtype, yes: bool) -> None:
    q, k = torch.zeros(shape, dtype=dtype), torch.zeros(shape[0], K, *shape[2:], dtype=dtype)
    assert attention.use_blocked_attention(q, k) is yes
    with torch.no_grad():
        assert attention.use_blocked_attention(q, k) is False


@pytest.mark.parametrize("family", ["gpt1", "gpt2", "gpt3", "llama", "modern"])
def test_a_model_learns_the_same_either_way(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(family=family, n_layer=2, n_head=2, n_embd=32, vocab_size=50, block_size=80))
    model.init_weights(torch.Generator().manual_seed(0))
    model.double()
    ids = torch.randint(50, (2, 71))
    grads = []
    for way in (attention.use_blocked_attention, lambda *_: False):
        monkeypatch.setattr(model_attention, "use_blocked_attention", way)
        model.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).sum.backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_blocks_are_taken_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []
    real = model_attention.blocked_causal_attention
    monkeypatch.setattr(
        model_attention, "blocked_causal_attention", lambda q, *rest: seen.append(q.shape) or real(q, *rest)
    )
    model = GPT(ModelConfig(family="gpt2", n_layer=2, n_head=2, n_embd=32, vocab_size=50, block_size=80, dropout=0.1))
    ids = torch.randint(50, (2, 71))
    model.train()
    model.loss(ids[:, :-1], ids[:, 1:])
    assert seen == [], "dropout of attention's weights is flash's business"
    model.eval()
    model.loss(ids[:, :-1], ids[:, 1:])
    assert seen == [torch.Size((2, 2, 70, 16))] * 2
