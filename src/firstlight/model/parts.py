"""Norms and MLPs."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstlight.model.config import ModelConfig
from firstlight.model.passes import rms_norm, swiglu
from firstlight.model.products import Linear


def norm(config: ModelConfig, width: int) -> nn.Module:
    """Return the family's norm over the last dimension: LayerNorm, or RMSNorm (Zhang and Sennrich 2019)."""
    if config.choices["norm"] == "layernorm":
        return nn.LayerNorm(width, eps=config.eps)
    return RMSNorm(width, eps=config.eps)


class RMSNorm(nn.RMSNorm):
    """torch's, with a backward pass of our own where that is faster."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Divide by the root of the mean square, then scale."""
        assert self.weight is not None and self.eps is not None
        return rms_norm(x, self.weight, self.eps)


class GeluMLP(nn.Module):
    """Two matrices with a GELU between, in its tanh form, as GPT-1 to GPT-3 have it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.n_embd, config.inner)
        self.down = Linear(config.inner, config.n_embd)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Widen, bend, narrow."""
        y: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return y


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020) with gate and up in one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.n_embd, 2 * config.inner, bias=False)
        self.down = Linear(config.inner, config.n_embd, bias=False)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Let one half gate the other."""
        y: Tensor = self.down(swiglu(self.gate_up(x)))
        return y
