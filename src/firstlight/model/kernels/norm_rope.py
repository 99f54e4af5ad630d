"""Norm and turn with backward passes written by hand, for a CPU that runs uncompiled.

There a step is bound by passes over memory, and autograd takes two to four times as many as these
operations need. A compiler fuses the plain forms as well or better, GPUs have kernels of their own,
and mixed number types are autocast's business: all of them get the plain forms, which stand beside.
Price: no second derivatives here (asking for one raises an error).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def use_custom_backward(x: Tensor, other: Tensor | None = None) -> bool:
    """Tell whether forms written by hand serve ``x``: numbers of one plain type on a CPU that runs uncompiled."""
    is_plain = x.dtype in (torch.float32, torch.float64) and (other is None or other.dtype == x.dtype)
    return is_plain and x.device.type == "cpu" and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``x`` over the root of its mean square along the last dimension, times ``weight``."""
    if use_custom_backward(x, weight):
        if not torch.is_grad_enabled():
            return _normed(x, weight, eps)[0]
        normed: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return normed
    # Under autocast, mixed number types would miss the fused kernel.
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x`` with the halves of its last dimension turned against each other.

    Args:
        x: (…, D).
        cos: broadcasts over ``x``, the same in both halves.
        sin: likewise, with the first half's sign changed.
    """
    if use_custom_backward(x, cos):
        if not torch.is_grad_enabled():
            return _turned(x, cos, sin)
        turned: Tensor = _Turn.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return turned
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), -1)
    return (x * cos + swapped * sin).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        n = x.shape[-1]
        # LayerNorm's kernel, told that the mean is zero, goes wrong only in what it takes off for the mean's own
        # gradient: the row's mean of grad * weight, scaled. That is put back.
        d_x, d_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, (n,), torch.zeros_like(scale), scale, weight, None, (True, True, False)
        )
        taken = torch.mv(grad.reshape(-1, n), weight).view(scale.shape)
        return d_x.add_(taken.mul_(scale).div_(n)), d_weight, None


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * scale).mul_(weight), scale


class _Turn(torch.autograd.Function):
    """The gradient of a turn is the turn back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half])
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
