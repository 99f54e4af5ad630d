"""The loss from hidden states, in chunks, so that the logits of a large vocabulary are never held whole.

Price: the gradients of hidden states and head are computed in the forward pass, so a loss whose
gradient is never asked for must be taken under ``no_grad`` (evaluation does), and there is no second
derivative. Gain: no logits kept and none computed twice; GPT-2's at 1,024 positions alone are 206 MB a
row. With small vocabularies, which are one chunk, it still saves passes over them.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from firstlight.model.kernels.linear import linear, product

_CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 512 << 20}  # of fp32 logits at once


class Loss(NamedTuple):
    """A weighted sum of nats, and the sum of the weights."""

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # tuple.count, which nobody asks a loss for


def linear_cross_entropy(
    hidden: Float[Tensor, "B T C"],
    head: Float[Tensor, "V C"],
    targets: Int[Tensor, "B T"],
    weights: Float[Tensor, "B T"] | None = None,
) -> Loss:
    """Return the sum of -log P(target) over all positions, weighted, and the count."""
    rows, flat = hidden.flatten(0, 1), targets.flatten()
    weight = None if weights is None else weights.flatten()
    count = torch.tensor(float(flat.numel()), device=hidden.device) if weight is None else weight.sum()
    if not torch.is_grad_enabled():
        nats = _nats(rows, head, flat)
        return Loss(nats.sum() if weight is None else (nats * weight).sum(), count)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
    total: Tensor = _ChunkedLoss.apply(rows, head, flat, weight, dtype)  # type: ignore[no-untyped-call]
    return Loss(total, count)


def linear_nll(
    hidden: Float[Tensor, "B T C"], head: Float[Tensor, "V C"], targets: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return -log P(target) of each position, in fp32 (or fp64, where the model is)."""
    return _nats(hidden.flatten(0, 1), head, targets.flatten()).view(targets.shape)


def _nats(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    size = _chunk(rows, head)
    parts = zip(torch.split(rows, size), torch.split(targets, size), strict=True)
    return torch.cat([F.cross_entropy(_full(linear(r, head)), t, reduction="none") for r, t in parts])


def _full(x: Tensor) -> Tensor:
    """Return half precision as fp32, other types as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
            wide = torch.promote_types(dtype, torch.float32)
            total = torch.zeros((), dtype=wide, device=rows.device)
            d_rows, d_head = torch.empty_like(inputs), torch.empty_like(head, dtype=wide)
            size = _chunk(rows, head)
            for first in range(0, rows.shape[0], size):
                part = slice(first, first + size)
                log_p = _full(product(inputs[part], matrix)).log_softmax(-1)  # (n, V)
                at = targets[part, None]
                gains = log_p.gather(1, at).squeeze(1)
                total -= (gains if weights is None else gains * weights[part]).sum()
                slope = log_p.exp_()
                slope.scatter_add_(1, at, torch.full_like(at, -1, dtype=wide))
                if weights is not None:
                    slope *= weights[part, None]
                slope = slope.to(dtype)
                d_rows[part] = product(slope, matrix.t())
                if dtype == wide:
                    d_head.addmm_(slope.t(), inputs[part], beta=min(first, 1))
                else:
                    more = slope.t() @ inputs[part]
                    d_head.add_(more) if first else d_head.copy_(more)
        ctx.save_for_backward(d_rows, d_head)
        ctx.dtypes = rows.dtype, head.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_rows, d_head = ctx.saved_tensors
        rows_dtype, head_dtype = ctx.dtypes
        # In place, since the head's is as large as the embeddings; autograd refuses a second time by its version.
        return d_rows.mul_(grad).to(rows_dtype), d_head.mul_(grad).to(head_dtype), None, None, None
