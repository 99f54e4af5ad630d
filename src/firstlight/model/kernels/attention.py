"""Causal attention over short texts in blocks of queries, for a CPU that runs uncompiled.

torch's flash attention for CPUs works key block by key block with small products of its own, and reaches a
third of what the processor can. Batched products over whole heads, one block of queries at a time
against the keys that it sees, are up to twice as fast. Price: the weights of attention are kept for the backward
pass, B H T T / 2 numbers, which is why long texts stay with flash.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from firstlight.model.kernels.norm_rope import use_custom_backward

_BLOCK = 64


def suits(q: Float[Tensor, "B H T D"], k: Float[Tensor, "B K T D"]) -> bool:
    """Tell whether blocks are faster than flash here, and keep no more than the MLP does."""
    T, D = q.shape[-2:]
    return use_custom_backward(q) and q.shape == k.shape and 1 < T <= 8 * D and torch.is_grad_enabled()


def causal_attention(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T D"], scale: float
) -> Float[Tensor, "B H T D"]:
    """Return each position's mixture of the values before it and its own."""
    y: Tensor = _Blocks.apply(q, k, v, scale)  # type: ignore[no-untyped-call]
    return y


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        shape = q.shape
        q, k, v = (t.reshape(-1, *shape[2:]) for t in (q, k, v))  # (BH, T, D)
        y, kept = torch.empty_like(q), []
        later = torch.full((_BLOCK, _BLOCK), -torch.inf, dtype=q.dtype).triu_(1)
        for a, b in _blocks(shape[2]):
            scores = torch.bmm(q[:, a:b], k[:, :b].transpose(1, 2)).mul_(scale)  # (BH, b - a, b)
            scores[:, :, a:] += later[: b - a, : b - a]
            weights = scores.softmax(-1)
            torch.bmm(weights, v[:, :b], out=y[:, a:b])
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.scale, ctx.shape = scale, shape
        return y.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        grad = grad.reshape(q.shape)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (a, b), weights in zip(_blocks(q.shape[1]), kept, strict=True):
            d_v[:, :b].baddbmm_(weights.transpose(1, 2), grad[:, a:b])
            slope = torch.bmm(grad[:, a:b], v[:, :b].transpose(1, 2))
            slope = torch._softmax_backward_data(slope, weights, -1, q.dtype)
            torch.bmm(slope, k[:, :b], out=d_q[:, a:b])
            d_k[:, :b].baddbmm_(slope.transpose(1, 2), q[:, a:b], alpha=ctx.scale)
        d_q *= ctx.scale
        return d_q.view(ctx.shape), d_k.view(ctx.shape), d_v.view(ctx.shape), None


def _blocks(T: int) -> list[tuple[int, int]]:
    return [(a, min(a + _BLOCK, T)) for a in range(0, T, _BLOCK)]
