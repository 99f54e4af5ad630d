"""Matrices that do not learn, in eight or four bits, for adapters to learn beside (QLoRA, Dettmers et al. 2023).

Eight bits are those of ``int8``. Four bits are NF4: blocks of 64 numbers, each block scaled by its largest magnitude,
each number the nearest of 16 quantiles of the normal distribution. A matrix is made anew for each product, forth and
back, and is never held: memory is that of the bits.
"""

import functools
from statistics import NormalDist
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from firstlight.model.gpt import GPT
from firstlight.model.kernels.linear import Linear, product

QuantType = Literal["int8", "nf4"]

_ROWS = 16  # up to which torch's product with int8 is ahead of turning the matrix back into fp32
_MULTIPLE = 32  # torch's product reads beyond matrices of other sizes


class Int8Weight(nn.Module):
    """A matrix (N, K) as int8 and scales.

    Args:
        weight: finite numbers.
    """

    whole: Tensor
    scale: Tensor
    ones: Tensor

    def __init__(self, weight: Float[Tensor, "N K"]) -> None:
        super().__init__()
        self.rows, self.columns = weight.shape
        exact = weight.detach().float()
        scale = exact.abs().amax(1).div(127)  # (N,)
        whole = (exact / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8)
        spare = [-n % _MULTIPLE for n in (self.columns, self.rows)]
        self.register_buffer("whole", F.pad(whole, (0, spare[0], 0, spare[1])))
        self.register_buffer("scale", F.pad(scale, (0, spare[1])))
        # The scales are applied in fp32: the kernel would round them to bf16.
        self.register_buffer("ones", torch.ones_like(self.scale, dtype=torch.bfloat16), persistent=False)

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The matrix in fp32, made anew."""
        return self.whole[: self.rows, : self.columns] * self.scale[: self.rows, None]

    def times(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        """Return ``x @ weight.T``."""
        flat = x.reshape(-1, self.columns)
        if x.device.type != "cpu" or flat.shape[0] > _ROWS:
            return product(x, self.weight.to(x.dtype))
        short = F.pad(flat.bfloat16(), (0, self.whole.shape[1] - self.columns))
        y = torch.ops.aten._weight_int8pack_mm(short, self.whole, self.ones)
        scaled: Tensor = y[:, : self.rows].to(x.dtype) * self.scale[: self.rows]
        return scaled.reshape(*x.shape[:-1], self.rows)


class Int8Linear(Int8Weight):
    """Stands in for a Linear."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight)
        self.bias = layer.bias

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        """Return ``x @ weight.T + bias``."""
        y = self.times(x)
        return y if self.bias is None else y + self.bias


class Int8Embedding(Int8Weight):
    """Stands in for an Embedding, and for the head that shares its matrix."""

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... K"]:
        """Return the rows of tokens."""
        return self.whole[ids, : self.columns] * self.scale[ids, None]


def to_int8(model: GPT) -> GPT:
    """Put a model's matrices into int8, in place, for ``hidden`` and ``logits`` without gradients."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    model.embed = Int8Embedding(model.embed.weight)  # type: ignore[assignment]
    return model


_BLOCK = 64
# Where the outermost quantile lies: the mean of 1 - 1/32 and 1 - 1/30, as in the paper's code book.
_OUTERMOST = (1 - 1 / 32 + 1 - 1 / 30) / 2


@functools.cache
def nf4_code() -> tuple[float, ...]:
    """Return NF4's 16 numbers from -1 to 1: seven quantiles below zero, zero, eight above (appendix E)."""
    normal = NormalDist()

    def quantiles(n: int) -> list[float]:
        return [normal.inv_cdf(_OUTERMOST + (0.5 - _OUTERMOST) * i / n) for i in range(n)]

    above, below = quantiles(8), quantiles(7)
    return tuple(number / above[0] for number in sorted([-b for b in below] + [0.0] + above))


class NF4Weight(nn.Module):
    """A matrix (N, K) in NF4.

    Args:
        weight: finite numbers.
    """

    packed: Tensor
    scale: Tensor
    code: Tensor

    def __init__(self, weight: Float[Tensor, "N K"]) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        flat = weight.detach().float().flatten()
        blocks = F.pad(flat, (0, -flat.numel() % _BLOCK)).reshape(-1, _BLOCK)
        scale = blocks.abs().amax(1)
        code = torch.tensor(nf4_code(), device=weight.device)
        middles = (code[1:] + code[:-1]) / 2
        unit = blocks / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        numbers = torch.bucketize(unit, middles).to(torch.uint8).reshape(-1, 2)
        self.register_buffer("packed", numbers[:, 0] * 16 + numbers[:, 1])
        self.register_buffer("scale", scale)
        self.register_buffer("code", code, persistent=False)

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The matrix in fp32, made anew."""
        numbers = torch.stack([self.packed >> 4, self.packed & 15], -1)
        blocks = self.code[numbers.long()].reshape(-1, _BLOCK) * self.scale[:, None]
        n, k = self.shape
        return blocks.flatten()[: n * k].reshape(n, k)


class QuantizedLinear(nn.Module):
    """Stands in for a Linear that does not learn; gradients pass through it to what it reads.

    Args:
        layer: whose numbers are taken.
        bits: eight or four.
    """

    def __init__(self, layer: nn.Linear, bits: QuantType) -> None:
        super().__init__()
        self.matrix = Int8Weight(layer.weight) if bits == "int8" else NF4Weight(layer.weight)
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The matrix in fp32, made anew."""
        return self.matrix.weight

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        """Return ``x @ weight.T + bias``, in the precision of the place."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        y: Tensor = _Times.apply(x, self.matrix)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dequantize(self) -> Linear:
        """Return a Linear with the same numbers."""
        made = Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        made.weight = nn.Parameter(self.weight, requires_grad=False)
        made.bias = self.bias
        return made


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Int8Weight | NF4Weight) -> Tensor:
        ctx.matrix = matrix
        return product(x, matrix.weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return product(grad, ctx.matrix.weight.to(grad.dtype).t()), None
