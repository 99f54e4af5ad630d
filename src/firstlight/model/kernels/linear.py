"""A product with a matrix, as fast as the processor allows.

torch gives fp32 products to MKL, which on AMD's processors reads a matrix for a few rows at half the speed of memory
or less, and for more rows stays a tenth to a third behind oneDNN, which torch brings along. The sums are the same but
for rounding. The gradient of the matrix, a product along the rows, stays MKL's, which is as fast there.
"""

import functools
import platform
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Numbers of a matrix that the processor's caches no longer hold, and products from which on oneDNN's start is made up.
_LARGE, _MANY = 1 << 19, 1 << 24


class Linear(nn.Linear):
    """nn.Linear whose products are oneDNN's, on a CPU in fp32."""

    def forward(self, input: Float[Tensor, "... C"]) -> Float[Tensor, "... F"]:
        """Return ``input @ weight.T + bias``."""
        return linear(input, self.weight, self.bias)


def linear(
    x: Float[Tensor, "... C"], weight: Float[Tensor, "F C"], bias: Tensor | None = None
) -> Float[Tensor, "... F"]:
    """Return ``x @ weight.T + bias``."""
    if not _suits(x, weight) or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return product(x, weight, bias)
    y: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` without a gradient; a transposed weight costs oneDNN nothing."""
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Tell whether oneDNN is faster: fp32 on an x86 processor, uncompiled, a product that makes up for its start."""
    if weight.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32 or torch.compiler.is_compiling():
        return False
    return (weight.numel() >= _LARGE or x.numel() * weight.shape[0] >= _MANY) and _has_onednn()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            product(grad, weight.t()) if wants_x else None,
            flat.t() @ x.reshape(-1, x.shape[-1]) if wants_weight else None,
            flat.sum(0) if wants_bias else None,
        )


@functools.cache
def _has_onednn() -> bool:
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")
