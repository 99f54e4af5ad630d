"""RMSNorm and rotary positions with custom backward passes, for uncompiled training on a CPU.

There a step is bound by passes over memory, and autograd needs two to four times as many as these operations do. A
compiler fuses the plain forms as well or better, GPUs have their own kernels, and mixed dtypes are left to autocast:
all of these use the plain forms. Price: no second derivatives (asking for one raises an error).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def use_custom_backward(x: Tensor, other: Tensor | None = None) -> bool:
    """Whether custom backward passes serve ``x``: fp32 or fp64, without mixing, on a CPU, uncompiled."""
    is_plain = x.dtype in (torch.float32, torch.float64) and (other is None or other.dtype == x.dtype)
    return is_plain and x.device.type == "cpu" and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide ``x`` by its root mean square along the last dimension, and multiply by ``weight``."""
    if use_custom_backward(x, weight):
        if not torch.is_grad_enabled():
            return _rms_norm_forward(x, weight, eps)[0]
        y: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return y
    # Under autocast, mixed dtypes would miss the fused kernel.
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of numbers, one from each half of the last dimension.

    Args:
        x: (..., D).
        cos: broadcasts over ``x``, the same in both halves.
        sin: likewise, negated in the first half.
    """
    if use_custom_backward(x, cos):
        if not torch.is_grad_enabled():
            return _rotate(x, cos, sin)
        y: Tensor = _ApplyRotary.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return y
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), -1)
    return (x * cos + swapped * sin).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, rstd = _rms_norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        n = x.shape[-1]
        # LayerNorm's kernel with a mean of zero differs only in the term that it subtracts for the gradient of the
        # mean: the row's mean of grad * weight, times rstd. That term is added back.
        d_x, d_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, (n,), torch.zeros_like(rstd), rstd, weight, None, (True, True, False)
        )
        subtracted = torch.mv(grad.reshape(-1, n), weight).view(rstd.shape)
        return d_x.add_(subtracted.mul_(rstd).div_(n)), d_weight, None


def _rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * rstd).mul_(weight), rstd


class _ApplyRotary(torch.autograd.Function):
    """The gradient of a rotation is the inverse rotation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, -sin), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half])
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
