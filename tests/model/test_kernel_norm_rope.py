"""The passes written by hand against the plain forms: values and gradients in float64, and when they are taken."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.model.kernels import norm_rope


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def plain_turn(x, angle):
    a, b = x.chunk(2, -1)
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


def norm_case(rows, T, width):
    return (
        lambda x, w: norm_rope.rms_norm(x, w, 1e-6),
        plain_norm,
        (drawn(rows, T, 3, width), 1 + drawn(width, seed=1)),
    )


def turn_case(rows, T, width):
    angle = drawn(T, 1, width, seed=2)
    cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((-angle, angle), -1).sin()
    return (
        lambda x: norm_rope.apply_rotary(x, cos, sin),
        lambda x: plain_turn(x, angle),
        (drawn(rows, T, 3, 2 * width),),
    )


CASES = {"rms_norm": norm_case, "apply_rotary": turn_case}
every_pass = pytest.mark.parametrize("name", CASES)
FUNCTIONS = {"rms_norm": "_RMSNorm", "apply_rotary": "_ApplyRotary"}


@every_pass
@given(rows=st.integers(1, 3), T=st.integers(1, 5), width=st.integers(1, 9), strided=st.booleans())
@settings(max_examples=25, deadline=None)
def test_value_and_gradient_equal_the_plain_form(name: str, rows: int, T: int, width: int, strided: bool) -> None:
    ours, plain, tensors = CASES[name](rows, T, width)
    if strided:  # as a part of a wider matrix, the way that heads lie in the fused projection
        wide = torch.cat((tensors[0], tensors[0]), -1)
        tensors = (wide[..., : tensors[0].shape[-1]], *tensors[1:])
    got, wanted = ([t.detach().requires_grad_() for t in tensors] for _ in range(2))
    a, b = ours(*got), plain(*wanted)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    slope = drawn(*b.shape, seed=3)
    for x, y in zip(torch.autograd.grad(a, got, slope), torch.autograd.grad(b, wanted, slope), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(ours(*tensors), b.detach(), rtol=1e-12, atol=1e-12)


@every_pass
def test_a_gradient_that_is_itself_strided(name: str) -> None:
    """Attention hands its gradients back transposed."""
    ours, plain, tensors = CASES[name](2, 4, 6)
    got, wanted = ([t.detach().requires_grad_() for t in tensors] for _ in range(2))
    a, b = ours(*got), plain(*wanted)
    slope = drawn(*b.transpose(0, 1).shape, seed=3).transpose(0, 1)
    for x, y in zip(torch.autograd.grad(a, got, slope), torch.autograd.grad(b, wanted, slope), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


@every_pass
def test_the_plain_form_beside_it_is_the_same_function(name: str, monkeypatch) -> None:
    ours, _, tensors = CASES[name](2, 4, 6)
    use_custom_backward = ours(*tensors)
    monkeypatch.setattr(norm_rope, "use_custom_backward", lambda *_: False)
    torch.testing.assert_close(ours(*tensors), use_custom_backward, rtol=1e-12, atol=1e-12)


@every_pass
def test_it_is_taken_on_a_cpu_in_full_precision_only(name: str, monkeypatch) -> None:
    ours, _, tensors = CASES[name](2, 4, 6)
    called = []
    function = getattr(norm_rope, FUNCTIONS[name])
    monkeypatch.setattr(function, "apply", lambda *args: called.append(name) or args[0])
    ours(*tensors)
    assert called == [name]
    x, *rest = tensors
    assert ours(x.bfloat16(), *rest).dtype == torch.bfloat16
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    ours(*tensors)
    assert called == [name]


@every_pass
def test_a_second_derivative_is_refused_rather_than_wrong(name: str) -> None:
    ours, _, tensors = CASES[name](1, 3, 4)
    x = tensors[0].requires_grad_()
    (first,) = torch.autograd.grad(ours(x, *tensors[1:]).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_norm_of_zeros_and_of_large_numbers_is_finite() -> None:
    x = torch.stack((torch.zeros(8), torch.full((8,), 1e15))).requires_grad_()
    weight = torch.ones(8, requires_grad=True)
    y = norm_rope.rms_norm(x, weight, 1e-6)
    y.sum().backward()
    assert torch.equal(y[0], torch.zeros(8)) and torch.allclose(y[1], torch.ones(8))
    assert x.grad.isfinite().all() and weight.grad.isfinite().all()
    torch.testing.assert_close(y, F.rms_norm(x, (8,), weight, 1e-6))
