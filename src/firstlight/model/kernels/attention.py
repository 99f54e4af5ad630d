"""Causal attention over short sequences in blocks of queries, for uncompiled training on a CPU.

torch's flash attention for CPUs goes key block by key block with small matrix products of its own, and reaches a
third of what the processor can do. Batched matrix products over whole heads, one block of queries at a time against
the keys it attends to, are up to twice as fast. Price: attention weights are saved for the backward pass,
B H T T / 2 numbers, so that long sequences stay with flash attention.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from firstlight.model.kernels.norm_rope import use_custom_backward

_BLOCK = 64


def use_blocked_attention(q: Float[Tensor, "B H T D"], k: Float[Tensor, "B K T D"]) -> bool:
    """Whether blocked attention is faster than flash attention here, and saves no more than the MLP does."""
    T, D = q.shape[-2:]
    return use_custom_backward(q) and q.shape == k.shape and 1 < T <= 8 * D and torch.is_grad_enabled()


def blocked_causal_attention(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T D"], scale: float
) -> Float[Tensor, "B H T D"]:
    """Compute causal scaled dot-product attention."""
    y: Tensor = _BlockedAttention.apply(q, k, v, scale)  # type: ignore[no-untyped-call]
    return y


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        shape = q.shape
        q, k, v = (t.reshape(-1, *shape[2:]) for t in (q, k, v))  # (BH, T, D)
        y, saved = torch.empty_like(q), []
        causal_mask = torch.full((_BLOCK, _BLOCK), -torch.inf, dtype=q.dtype).triu_(1)
        for start, end in _query_blocks(shape[2]):
            scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2)).mul_(scale)  # (BH, block, end)
            scores[:, :, start:] += causal_mask[: end - start, : end - start]
            weights = scores.softmax(-1)
            torch.bmm(weights, v[:, :end], out=y[:, start:end])
            saved.append(weights)
        ctx.save_for_backward(q, k, v, *saved)
        ctx.scale, ctx.shape = scale, shape
        return y.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *saved = ctx.saved_tensors
        grad = grad.reshape(q.shape)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end), weights in zip(_query_blocks(q.shape[1]), saved, strict=True):
            d_v[:, :end].baddbmm_(weights.transpose(1, 2), grad[:, start:end])
            d_scores = torch.bmm(grad[:, start:end], v[:, :end].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_scores, weights, -1, q.dtype)
            torch.bmm(d_scores, k[:, :end], out=d_q[:, start:end])
            d_k[:, :end].baddbmm_(d_scores.transpose(1, 2), q[:, start:end], alpha=ctx.scale)
        d_q *= ctx.scale
        return d_q.view(ctx.shape), d_k.view(ctx.shape), d_v.view(ctx.shape), None


def _query_blocks(T: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, T)) for start in range(0, T, _BLOCK)]
