"""Matrices in eight bits, for writing texts: a quarter of the memory to read a token, numbers near the fp32 ones.

Each row of a matrix is whole numbers up to 127 and one scale (weight-only quantisation, as in LLM.int8's weights,
Dettmers et al. 2022, and gpt-fast). Norms, biases and positions stay as they are.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from firstlight.model.gpt import GPT
from firstlight.model.kernels.linear import product

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
