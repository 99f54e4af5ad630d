"""The loss from hidden states, in chunks, so that the logits of a large vocabulary are never held whole.

Price: the gradients of hidden states and head are computed in the forward pass, so a loss whose
gradient is never asked for must be taken under ``no_grad`` (evaluation does). Gain: no logits kept
and none computed twice; GPT-2's at 1,024 positions alone are 206 MB a row.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_SMALL_VOCABULARY = 2048
_CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 512 << 20}  # of fp32 logits at once


class Loss(NamedTuple):
    """A weighted sum of nats, and the sum of the weights."""

    sum: Tensor
    count: Tensor


def head_loss(
    hidden: Float[Tensor, "B T C"], head: Float[Tensor, "V C"], targets: Int[Tensor, "B T"],
    weights: Float[Tensor, "B T"] | None = None,
) -> Loss:  # fmt: skip
    """Return the sum of -log P(target) over all positions, weighted, and the count."""
    rows, flat = hidden.flatten(0, 1), targets.flatten()
    weight = None if weights is None else weights.flatten()
    count = torch.tensor(float(flat.numel()), device=hidden.device) if weight is None else weight.sum()
    if head.shape[0] <= _SMALL_VOCABULARY:
        logits = F.linear(rows, head).float()
        if weight is None:
            return Loss(F.cross_entropy(logits, flat, reduction="sum"), count)
        return Loss((F.cross_entropy(logits, flat, reduction="none") * weight).sum(), count)
    if not torch.is_grad_enabled():
        nats = _nats(rows, head, flat)
        return Loss(nats.sum() if weight is None else (nats * weight).sum(), count)
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else rows.dtype
    total: Tensor = _ChunkedLoss.apply(rows, head, flat, weight, dtype)  # type: ignore[no-untyped-call]
    return Loss(total, count)


def head_nats(
    hidden: Float[Tensor, "B T C"], head: Float[Tensor, "V C"], targets: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return -log P(target) of each position, in fp32."""
    return _nats(hidden.flatten(0, 1), head, targets.flatten()).view(targets.shape)


def _nats(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    size = _chunk(rows, head)
    parts = zip(rows.split(size), targets.split(size), strict=True)
    return torch.cat([F.cross_entropy(F.linear(r, head).float(), t, reduction="none") for r, t in parts])


def _chunk(rows: Tensor, head: Tensor) -> int:
    most = _CHUNK_BYTES.get(rows.device.type, 64 << 20) // (4 * head.shape[0])
    return max(16, min(most, rows.shape[0]))


class _ChunkedLoss(torch.autograd.Function):
    """Sum of cross-entropies of ``rows @ head.T``, with both gradients made on the way."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            inputs, matrix = rows.to(dtype), head.to(dtype)
            total = torch.zeros((), dtype=torch.float32, device=rows.device)
            d_rows, d_head = torch.empty_like(inputs), torch.zeros_like(head, dtype=torch.float32)
            size = _chunk(rows, head)
            for first in range(0, rows.shape[0], size):
                part = slice(first, first + size)
                logits = (inputs[part] @ matrix.t()).float()  # (n, V)
                top = logits.logsumexp(-1, keepdim=True)
                nats = (top - logits.gather(1, targets[part, None])).squeeze(1)
                total += (nats if weights is None else nats * weights[part]).sum()
                slope = logits.sub_(top).exp_()
                slope.scatter_add_(1, targets[part, None], -torch.ones_like(top))
                if weights is not None:
                    slope *= weights[part, None]
                slope = slope.to(dtype)
                torch.mm(slope, matrix, out=d_rows[part])
                if dtype == torch.float32:
                    d_head.addmm_(slope.t(), inputs[part])
                else:
                    d_head += slope.t() @ inputs[part]
        ctx.save_for_backward(d_rows, d_head)
        ctx.dtypes = rows.dtype, head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (grad,) = grads
        d_rows, d_head = ctx.saved_tensors
        rows_dtype, head_dtype = ctx.dtypes
        return (d_rows * grad).to(rows_dtype), (d_head * grad).to(head_dtype), None, None, None
