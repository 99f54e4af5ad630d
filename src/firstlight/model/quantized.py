"""Weights in eight or four bits: int8 for generation, int8 and NF4 for frozen weights under adapters (QLoRA).

Int8: each row of a matrix is integers up to 127 and one scale (weight-only quantisation, as the weights of LLM.int8,
Dettmers et al. 2022, and gpt-fast): a quarter of the memory traffic for a token. NF4 (Dettmers et al. 2023): blocks of
64 numbers, each block scaled by its largest magnitude, each number the nearest of 16 quantiles of the normal
distribution. Training dequantises a matrix for each product, forward and backward, and does not keep it.
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
from firstlight.model.kernels.linear import Linear, is_batch_invariant, linear_forward

QuantType = Literal["int8", "nf4"]

_MAX_INT8_ROWS = 16  # beyond which dequantising to fp32 is faster than torch's int8 kernel
_INT8_MULTIPLE = 64  # of columns and rows: the kernels read whole vectors
_NF4_BLOCK = 64
# The probability of the outermost quantile: the mean of 1 - 1/32 and 1 - 1/30, as in the paper's code.
_OUTERMOST = (1 - 1 / 32 + 1 - 1 / 30) / 2


class Int8Weight(nn.Module):
    """A matrix (N, K) as int8 and a scale for each row.

    Args:
        weight: finite numbers.
    """

    quantized: Tensor
    scale: Tensor
    ones: Tensor

    def __init__(self, weight: Float[Tensor, "N K"]) -> None:
        super().__init__()
        self.rows, self.columns = weight.shape
        exact = weight.detach().float()
        scale = exact.abs().amax(1).div(127)  # (N,)
        quantized = (exact / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8)
        padding = [-n % _INT8_MULTIPLE for n in (self.columns, self.rows)]
        self.register_buffer("quantized", F.pad(quantized, (0, padding[0], 0, padding[1])))
        self.register_buffer("scale", F.pad(scale, (0, padding[1])))
        # The scales are applied in fp32: the kernel would round them to bf16.
        self.register_buffer("ones", torch.ones_like(self.scale, dtype=torch.bfloat16), persistent=False)

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The matrix, dequantised to fp32."""
        return self.quantized[: self.rows, : self.columns] * self.scale[: self.rows, None]

    def matmul(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        """Compute ``x @ weight.T``."""
        flat = x.reshape(-1, self.columns)
        is_slow = flat.shape[0] > _MAX_INT8_ROWS and not is_batch_invariant()
        if x.device.type != "cpu" or is_slow:
            return linear_forward(x, self.weight.to(x.dtype))
        padded = F.pad(flat.bfloat16(), (0, self.quantized.shape[1] - self.columns))
        y = torch.ops.aten._weight_int8pack_mm(padded, self.quantized, self.ones)
        scaled: Tensor = y[:, : self.rows].to(x.dtype) * self.scale[: self.rows]
        return scaled.reshape(*x.shape[:-1], self.rows)


class Int8Linear(Int8Weight):
    """Replaces a Linear for inference."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight)
        self.bias = layer.bias

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        """Compute ``x @ weight.T + bias``."""
        y = self.matmul(x)
        return y if self.bias is None else y + self.bias


class Int8Embedding(Int8Weight):
    """Replaces an Embedding for inference, and the head that is tied to it."""

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... K"]:
        """Look up the rows of tokens."""
        return self.quantized[ids, : self.columns] * self.scale[ids, None]

    def logits(self, hidden: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        """Compute the logits of a tied head."""
        return self.matmul(hidden)


def to_int8(model: GPT) -> GPT:
    """Quantise a model's matrices to int8, in place, for inference."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    model.embed = Int8Embedding(model.embed.weight)  # type: ignore[assignment]
    return model


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
        blocks = F.pad(flat, (0, -flat.numel() % _NF4_BLOCK)).reshape(-1, _NF4_BLOCK)
        scale = blocks.abs().amax(1)
        code = torch.tensor(nf4_code(), device=weight.device)
        boundaries = (code[1:] + code[:-1]) / 2
        unit = blocks / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        indices = torch.bucketize(unit, boundaries).to(torch.uint8).reshape(-1, 2)
        self.register_buffer("packed", indices[:, 0] * 16 + indices[:, 1])
        self.register_buffer("scale", scale)
        self.register_buffer("code", code, persistent=False)

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The matrix, dequantised to fp32."""
        indices = torch.stack([self.packed >> 4, self.packed & 15], -1)
        blocks = self.code[indices.long()].reshape(-1, _NF4_BLOCK) * self.scale[:, None]
        n, k = self.shape
        return blocks.flatten()[: n * k].reshape(n, k)


class QuantizedLinear(nn.Module):
    """Replaces a frozen Linear; gradients pass through it to its input.

    Args:
        layer: the Linear to quantise.
        quant_type: int8 or nf4.
    """

    def __init__(self, layer: nn.Linear, quant_type: QuantType) -> None:
        super().__init__()
        self.quantized = Int8Weight(layer.weight) if quant_type == "int8" else NF4Weight(layer.weight)
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The matrix, dequantised to fp32."""
        return self.quantized.weight

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... N"]:
        """Compute ``x @ weight.T + bias``, in autocast's precision where it is enabled."""
        device_type = x.device.type
        if torch.is_autocast_enabled(device_type):
            x = x.to(torch.get_autocast_dtype(device_type))
        y: Tensor = _QuantizedMatmul.apply(x, self.quantized)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dequantize(self) -> Linear:
        """Return a Linear with the same numbers."""
        layer = Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight, requires_grad=False)
        layer.bias = self.bias
        return layer


class _QuantizedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Int8Weight | NF4Weight) -> Tensor:
        ctx.quantized = quantized
        return linear_forward(x, quantized.weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return linear_forward(grad, ctx.quantized.weight.to(grad.dtype).t()), None
