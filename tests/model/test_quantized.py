"""Matrices in eight and four bits: the published code book, what rounding costs, gradients through them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstlight.model.quantized import NF4Weight, QuantizedLinear, QuantType, nf4_code

# Dettmers et al. 2023, appendix E.
PUBLISHED = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def layer(rows: int = 48, columns: int = 40, *, bias: bool = True) -> nn.Linear:
    generator = torch.Generator().manual_seed(rows)
    made = nn.Linear(columns, rows, bias=bias)
    made.weight.data.copy_(torch.randn(rows, columns, generator=generator))
    return made


def test_the_code_book_is_the_published_one() -> None:
    assert nf4_code() == pytest.approx(PUBLISHED, abs=2e-6)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 150), st.floats(1e-6, 1e6))
def test_four_bits_are_the_nearest_code_and_rounding_again_changes_nothing(
    rows: int, columns: int, size: float
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * size
    held = NF4Weight(weight)
    made = held.weight
    assert made.shape == weight.shape
    flat, code = weight.flatten(), torch.tensor(nf4_code())
    for first in range(0, flat.numel(), 64):
        block = flat[first : first + 64]
        scale = block.abs().max()
        nearest = ((block / scale)[:, None] - code).abs().amin(1) * scale
        off = (made.flatten()[first : first + 64] - block).abs()
        torch.testing.assert_close(off, nearest, rtol=1e-4, atol=float(scale) * 1e-6)
    assert torch.equal(NF4Weight(made).packed, held.packed)


def test_zeros_stay_zeros() -> None:
    assert not NF4Weight(torch.zeros(3, 70)).weight.any()


@pytest.mark.parametrize("bits", ["int8", "nf4"])
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_gradients_are_those_of_the_whole_matrix(bits: QuantType, bias: bool) -> None:
    frozen = QuantizedLinear(layer(bias=bias), bits)
    plain = frozen.dequantize()
    x = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(1))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    told, expected = frozen(ours), plain(theirs)
    torch.testing.assert_close(told, expected)
    told.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_graph_does_not_hold_the_matrix() -> None:
    held: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor.numel())
        return tensor

    frozen = QuantizedLinear(layer(512, 512, bias=False), "nf4")
    x = torch.randn(2, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        frozen(x).sum().backward()
    assert sum(held) < 512 * 512


def test_in_the_precision_of_the_place() -> None:
    frozen = QuantizedLinear(layer(), "nf4")
    with torch.autocast("cpu", torch.bfloat16):
        told = frozen(torch.randn(2, 40))
    assert told.dtype == torch.bfloat16


def test_memory_is_that_of_the_bits() -> None:
    frozen = QuantizedLinear(layer(256, 256, bias=False), "nf4")
    assert sum(b.nbytes for b in frozen.buffers()) < 0.6 * 256 * 256 + 100


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_compiled_it_is_the_same(bits: QuantType) -> None:
    frozen = QuantizedLinear(layer(), bits)
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    plain, compiled = frozen(one), torch.compile(frozen)(two)
    torch.testing.assert_close(compiled, plain)
    plain.pow(2).sum().backward()
    compiled.pow(2).sum().backward()
    torch.testing.assert_close(two.grad, one.grad)
