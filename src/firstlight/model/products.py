"""A product with a matrix, without gradients, as fast as the processor allows.

torch gives fp32 products to MKL, which on AMD's processors reads a matrix for a few rows at half the speed of memory
or less, and for more rows stays a tenth to a third behind oneDNN, which torch brings along. The sums are the same but
for rounding.
"""

import functools
import platform

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Numbers of a matrix that the processor's caches no longer hold, and products from which on oneDNN's start is made up.
_LARGE, _MANY = 1 << 19, 1 << 24


class Linear(nn.Linear):
    """nn.Linear whose products without gradients are oneDNN's, on a CPU in fp32."""

    def forward(self, input: Float[Tensor, "... C"]) -> Float[Tensor, "... F"]:
        """Return ``input @ weight.T + bias``."""
        return linear(input, self.weight, self.bias)


def linear(
    x: Float[Tensor, "... C"], weight: Float[Tensor, "F C"], bias: Tensor | None = None
) -> Float[Tensor, "... F"]:
    """Return ``x @ weight.T + bias``."""
    if torch.is_grad_enabled() or weight.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32:
        return F.linear(x, weight, bias)
    worth = weight.numel() >= _LARGE or x.numel() * weight.shape[0] >= _MANY
    if not worth or not _has_onednn() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


@functools.cache
def _has_onednn() -> bool:
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")
