"""The MLPs with recomputed activations against the plain forms in float64, and when they are used."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.model import GPT, ModelConfig, mlp
from firstlight.model.mlp import mlp_class

FAMILIES = {"gelu_tanh": "gpt2", "gelu": "gpt2", "swiglu": "modern"}
every_mlp = pytest.mark.parametrize("name", FAMILIES)


def build(name: str, width: int = 6) -> torch.nn.Module:
    config = ModelConfig(
        family=FAMILIES[name], mlp=name, n_layer=1, n_head=1, n_embd=width, vocab_size=9, block_size=8
    ).complete(9)
    layer = mlp_class(config)(config).double()
    generator = torch.Generator().manual_seed(width)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def plain(name: str, layer, x):
    if name != "swiglu":
        y = layer.up.weight @ x.unsqueeze(-1)
        y = y.squeeze(-1) + layer.up.bias
        if name == "gelu":
            y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
        else:
            y = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
        return y @ layer.down.weight.t() + layer.down.bias
    gate, up = (x @ layer.gate_up.weight.t()).chunk(2, -1)
    return (gate * torch.sigmoid(gate) * up) @ layer.down.weight.t()


@every_mlp
@given(rows=st.integers(1, 3), T=st.integers(1, 5), width=st.sampled_from([2, 4, 10]), strided=st.booleans())
@settings(max_examples=25, deadline=None)
def test_value_and_gradients_equal_the_plain_form(name: str, rows: int, T: int, width: int, strided: bool) -> None:
    layer = build(name, width)
    x = torch.randn(rows, T, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, wanted = layer(x.requires_grad_()), plain(name, layer, x)
    torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-11)
    grad = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if strided:  # as a gradient that comes back transposed
        grad = grad.transpose(0, 1).contiguous().transpose(0, 1)
    inputs = [x, *layer.parameters()]
    exact = torch.autograd.grad(wanted, inputs, grad)
    for a, b in zip(torch.autograd.grad(ours, inputs, grad), exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted, rtol=1e-11, atol=1e-11)


def saved_bytes(layer, x) -> int:
    """Count the bytes that autograd saves for the backward pass, without weights."""
    held = {}
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    def pack(t):
        held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(size for at, size in held.items() if at not in own)


@every_mlp
def test_only_the_activations_input_is_saved(name: str, monkeypatch) -> None:
    layer, x = build(name, 16), torch.randn(4, 64, 16, dtype=torch.float64, requires_grad=True)
    second = layer.down.weight.shape[1] * (2 if name == "swiglu" else 1)
    assert saved_bytes(layer, x) == 8 * 4 * 64 * (16 + second)
    monkeypatch.setattr(mlp, "use_custom_backward", lambda *_: False)
    assert saved_bytes(layer, x) > 8 * 4 * 64 * (16 + second)


@every_mlp
def test_hooks_adapters_and_frozen_weights_work(name: str) -> None:
    layer, x = build(name), torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    seen = []
    handle = layer.down.register_forward_hook(lambda _, args, y: seen.append(args[0].shape))
    hooked = layer(x)
    handle.remove()
    assert seen and torch.equal(hooked, layer(x)), "the same numbers with and without hooks"

    class Adapter(torch.nn.Module):
        def __init__(self, base) -> None:
            super().__init__()
            self.base = base
            self.weight = base.weight

        def forward(self, x):
            return self.base(x) + 1

    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    (d_x,) = torch.autograd.grad(layer(x).sum(), x)
    assert d_x.abs().sum() > 0
    before, layer.down = layer(x), Adapter(layer.down)
    torch.testing.assert_close(layer(x), before + 1)


@every_mlp
def test_other_dtypes_and_compilers_use_the_plain_form(name: str, monkeypatch) -> None:
    layer, called = build(name), []
    apply = mlp._ActivationLinear.apply
    monkeypatch.setattr(mlp._ActivationLinear, "apply", lambda *args: called.append(1) or apply(*args))
    layer(torch.randn(2, 3, 6, dtype=torch.float64))
    assert called == [1]
    assert layer.bfloat16()(torch.randn(2, 3, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 3, 6)).dtype == torch.bfloat16
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    layer(torch.randn(2, 3, 6))
    assert called == [1]


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    layer, x = build("gelu_tanh"), torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_tied_embeddings_get_the_same_gradient_from_rows_as_from_a_matrix() -> None:
    config = ModelConfig(family="gpt2", n_layer=1, n_head=2, n_embd=8, vocab_size=11, block_size=6)
    model = GPT(config).double()
    model.init_weights(torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 1, 4, 10, 1, 0], [3, 3, 3, 2, 9, 1]])
    model.loss(ids, ids.roll(1)).sum.backward()
    got = model.embed.weight.grad
    assert got.layout == torch.strided
    x = F.one_hot(ids, 11).double() @ model.embed.weight + model.positions.weight
    for block in model.blocks:
        x = block(x, (), None)
    logits = model.norm(x) @ model.embed.weight.t()
    loss = F.cross_entropy(logits.flatten(0, 1), ids.roll(1).flatten(), reduction="sum")
    torch.testing.assert_close(got, torch.autograd.grad(loss, model.embed.weight)[0], rtol=1e-10, atol=1e-12)


def test_without_the_head_the_embeddings_gradient_is_a_plain_matrix() -> None:
    config = ModelConfig(family="gpt2", n_layer=1, n_head=2, n_embd=8, vocab_size=11, block_size=6)
    model = GPT(config)
    model.hidden(torch.tensor([[1, 2, 3]])).sum().backward()
    assert model.embed.weight.grad.layout == torch.strided
