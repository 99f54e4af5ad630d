"""Norms and MLPs."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstlight.model.config import ModelConfig


def norm(config: ModelConfig, width: int) -> nn.Module:
    """Return the family's norm over the last dimension: LayerNorm, or RMSNorm (Zhang and Sennrich 2019)."""
    if config.choices["norm"] == "layernorm":
        return nn.LayerNorm(width, eps=config.eps)
    return nn.RMSNorm(width, eps=config.eps)


class GeluMLP(nn.Module):
    """Two matrices with a GELU between, in its tanh form, as GPT-1 to GPT-3 have it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.inner)
        self.down = nn.Linear(config.inner, config.n_embd)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Widen, bend, narrow."""
        y: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return y


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020) with gate and up in one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.n_embd, 2 * config.inner, bias=False)
        self.down = nn.Linear(config.inner, config.n_embd, bias=False)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Let one half gate the other."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        y: Tensor = self.down(F.silu(gate) * up)
        return y
