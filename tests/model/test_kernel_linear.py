import pytest
import torch
import torch.nn.functional as F

from firstlight.model import GPT, ModelConfig, linear
from firstlight.model.kernels.linear import Linear, _has_onednn


@pytest.mark.parametrize("shape", [(768, 768), (1000, 600), (64, 32), (5, 3)])
@pytest.mark.parametrize("rows", [(1,), (8, 1), (2, 70), (3, 1, 2), (2048,)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_is_that_of_float64_with_and_without_gradients(shape, rows, has_bias):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    bias = torch.randn(shape[0], generator=generator) if has_bias else None
    x = torch.randn(*rows, shape[1], generator=generator)
    wanted = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    with torch.no_grad():
        found = linear(x, weight, bias)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found.double(), wanted, atol=3e-4, rtol=1e-4)
    ours, plain = ([t.clone().requires_grad_() for t in (x, weight, bias) if t is not None] for _ in range(2))
    made = linear(*ours)
    torch.testing.assert_close(made.double(), wanted, atol=3e-4, rtol=1e-4)
    slope = torch.randn(made.shape, generator=generator)
    grads = torch.autograd.grad(made, ours, slope)
    exact = torch.autograd.grad(F.linear(*[t.double() for t in plain]), plain, slope.double())
    for a, b in zip(grads, exact, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-4)


def test_only_what_is_asked_for_gets_a_gradient():
    weight, x = torch.randn(900, 700), torch.randn(40, 700, requires_grad=True)
    (d_x,) = torch.autograd.grad(linear(x, weight).sum(), x)
    torch.testing.assert_close(d_x, weight.sum(0).expand(40, -1), atol=1e-3, rtol=1e-4)
    weight.requires_grad_()
    (d_weight,) = torch.autograd.grad(linear(x.detach(), weight).sum(), weight)
    torch.testing.assert_close(d_weight, x.detach().sum(0).expand(900, -1), atol=1e-3, rtol=1e-4)


def test_strided_rows_and_matrices_are_taken_as_they_are():
    weight, x = torch.randn(900, 700), torch.randn(4, 9, 700)
    with torch.no_grad():
        for w in (weight, weight.t().contiguous().t(), torch.nn.Parameter(weight)):
            torch.testing.assert_close(linear(x[:, -1], w), F.linear(x[:, -1], weight), atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(
                linear(x.transpose(0, 1), w), F.linear(x, weight).transpose(0, 1), atol=1e-3, rtol=1e-4
            )


def test_other_number_types_and_autocast_keep_their_ways():
    layer, x = Linear(800, 700), torch.randn(2, 800)
    with torch.no_grad():
        assert layer.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
        layer = layer.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert torch.autograd.gradcheck(
        lambda y: linear(y, torch.eye(3, dtype=torch.float64)),
        torch.randn(2, 3, dtype=torch.float64, requires_grad=True),
    )


def test_gradients_are_there_where_they_are_asked_for():
    layer = Linear(800, 700)
    layer(torch.randn(2, 800)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.skipif(not _has_onednn(), reason="no oneDNN here")
def test_every_matrix_of_a_large_enough_model_goes_through_onednn(monkeypatch):
    seen = []
    real = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda x, w, *rest: seen.append(tuple(w.shape)) or real(x, w, *rest)
    )
    model = GPT(ModelConfig(family="modern", n_layer=1, n_head=12, n_embd=768, vocab_size=800, block_size=8))
    with torch.no_grad():
        model(torch.tensor([[1]]))
    assert seen == [(2304, 768), (768, 768), (4096, 768), (768, 2048), (800, 768)]
    small = GPT(ModelConfig(family="modern", n_layer=1, n_head=2, n_embd=64, vocab_size=80, block_size=8))
    with torch.no_grad():
        small(torch.tensor([[1]]))
    assert len(seen) == 5, "where the caches hold a matrix, oneDNN's start costs more than it gains"
