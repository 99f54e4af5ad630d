"""Linear layers in fp32 on x86 CPUs through oneDNN.

torch runs fp32 matrix products through MKL, which on AMD processors reads a weight matrix for a few rows at half the
memory bandwidth or less, and for more rows is a tenth to a third slower than oneDNN, which torch ships. Results are
equal up to rounding. The gradient of the weight is left to MKL, which is as fast there.
"""

import contextlib
import contextvars
import functools
import platform
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# oneDNN's start-up cost pays off for weights that no longer fit the processor's caches, or for many multiplications.
_MIN_WEIGHT_NUMEL, _MIN_MULTIPLICATIONS = 1 << 19, 1 << 24

_batch_invariant = contextvars.ContextVar("batch_invariant", default=False)


@contextlib.contextmanager
def batch_invariant() -> Iterator[None]:
    """Make each row of a result independent of how many rows there are, from two on, in fp32 and int8 on an x86 CPU.

    oneDNN's products are so, and are used for every size; MKL takes different kernels for different numbers of rows.
    Activations are computed row by row: torch rounds the numbers at the end of a thread's part differently.
    """
    token = _batch_invariant.set(True)
    try:
        yield
    finally:
        _batch_invariant.reset(token)


def is_batch_invariant() -> bool:
    """Whether ``batch_invariant`` is in force."""
    return _batch_invariant.get()


class Linear(nn.Linear):
    """nn.Linear, with oneDNN in fp32 on a CPU."""

    def forward(self, input: Float[Tensor, "... C"]) -> Float[Tensor, "... F"]:
        """Compute ``input @ weight.T + bias``."""
        return linear(input, self.weight, self.bias)


def linear(
    x: Float[Tensor, "... C"], weight: Float[Tensor, "F C"], bias: Tensor | None = None
) -> Float[Tensor, "... F"]:
    """Compute ``x @ weight.T + bias``, as ``F.linear`` does."""
    if not _use_onednn(x, weight) or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return linear_forward(x, weight, bias)
    y: Tensor = _OneDNNLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias`` without autograd; a transposed weight needs no copy."""
    if not _use_onednn(x, weight):
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _use_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is faster: fp32 on an x86 CPU, uncompiled, and large enough for its start-up cost."""
    if weight.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32 or torch.compiler.is_compiling():
        return False
    is_large = weight.numel() >= _MIN_WEIGHT_NUMEL or x.numel() * weight.shape[0] >= _MIN_MULTIPLICATIONS
    return (is_large or _batch_invariant.get()) and _has_onednn()


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear_forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            linear_forward(grad, weight.t()) if needs_x else None,
            flat.t() @ x.reshape(-1, x.shape[-1]) if needs_weight else None,
            flat.sum(0) if needs_bias else None,
        )


@functools.cache
def _has_onednn() -> bool:
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")
