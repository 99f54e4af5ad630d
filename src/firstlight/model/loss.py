"""The loss from hidden states, in chunks, so that the logits of a large vocabulary never exist at once.

Price: the gradients of hidden states and head are computed in the forward pass, so a loss that needs no gradient must
be computed under ``no_grad`` (evaluation does), and there is no second derivative. Gain: logits are neither stored nor
computed twice; those of GPT-2 at 1,024 positions alone take 206 MB a row. Small vocabularies, which are one chunk,
still save passes over memory.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from firstlight.model.kernels.linear import linear, linear_forward

_CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 512 << 20}  # of fp32 logits at once


class Loss(NamedTuple):
    """A weighted sum of cross-entropies in nats, and the sum of the weights."""

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count, which a loss does not need


def linear_cross_entropy(
    hidden: Float[Tensor, "B T C"],
    head: Float[Tensor, "V C"],
    targets: Int[Tensor, "B T"],
    weights: Float[Tensor, "B T"] | None = None,
) -> Loss:
    """Compute the weighted sum of cross-entropies of ``hidden @ head.T``, and the sum of weights."""
    rows, flat = hidden.flatten(0, 1), targets.flatten()
    weight = None if weights is None else weights.flatten()
    count = torch.tensor(float(flat.numel()), device=hidden.device) if weight is None else weight.sum()
    if not torch.is_grad_enabled():
        nll = _nll(rows, head, flat)
        return Loss(nll.sum() if weight is None else (nll * weight).sum(), count)
    device_type = hidden.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else rows.dtype
    total: Tensor = _ChunkedCrossEntropy.apply(rows, head, flat, weight, dtype)  # type: ignore[no-untyped-call]
    return Loss(total, count)


def linear_nll(
    hidden: Float[Tensor, "B T C"], head: Float[Tensor, "V C"], targets: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Compute each target's negative log-likelihood in nats, in fp32 (fp64 for a model in fp64), without gradients."""
    return _nll(hidden.flatten(0, 1), head, targets.flatten()).view(targets.shape)


def _nll(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    size = _chunk_rows(rows, head)
    chunks = zip(torch.split(rows, size), torch.split(targets, size), strict=True)
    return torch.cat([F.cross_entropy(_at_least_fp32(linear(r, head)), t, reduction="none") for r, t in chunks])


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _chunk_rows(rows: Tensor, head: Tensor) -> int:
    limit = _CHUNK_BYTES.get(rows.device.type, 64 << 20) // (4 * head.shape[0])
    return max(16, min(limit, rows.shape[0]))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of ``rows @ head.T``, with both gradients computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            inputs, matrix = rows.to(dtype), head.to(dtype)
            wide = torch.promote_types(dtype, torch.float32)
            total = torch.zeros((), dtype=wide, device=rows.device)
            d_rows, d_head = torch.empty_like(inputs), torch.empty_like(head, dtype=wide)
            size = _chunk_rows(rows, head)
            for start in range(0, rows.shape[0], size):
                chunk = slice(start, start + size)
                log_probs = _at_least_fp32(linear_forward(inputs[chunk], matrix)).log_softmax(-1)  # (n, V)
                index = targets[chunk, None]
                target_log_probs = log_probs.gather(1, index).squeeze(1)
                total -= (target_log_probs if weights is None else target_log_probs * weights[chunk]).sum()
                d_logits = log_probs.exp_()
                d_logits.scatter_add_(1, index, torch.full_like(index, -1, dtype=wide))
                if weights is not None:
                    d_logits *= weights[chunk, None]
                d_logits = d_logits.to(dtype)
                d_rows[chunk] = linear_forward(d_logits, matrix.t())
                if dtype == wide:
                    d_head.addmm_(d_logits.t(), inputs[chunk], beta=min(start, 1))
                else:
                    more = d_logits.t() @ inputs[chunk]
                    d_head.add_(more) if start else d_head.copy_(more)
        ctx.save_for_backward(d_rows, d_head)
        ctx.dtypes = rows.dtype, head.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_rows, d_head = ctx.saved_tensors
        rows_dtype, head_dtype = ctx.dtypes
        # In place, since the head's gradient is as large as the embeddings; a second backward pass is refused, because
        # autograd sees that the saved tensors have changed.
        return d_rows.mul_(grad).to(rows_dtype), d_head.mul_(grad).to(head_dtype), None, None, None
