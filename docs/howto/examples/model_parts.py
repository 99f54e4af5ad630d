"""Parts of a model: sinusoidal positions, a norm without parameters, and an MLP with squared ReLU."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from firstlight.model import MLP, ModelConfig, Norm, PositionScheme
from firstlight.model.kernels.linear import Linear


class SinusoidalPositions(PositionScheme):
    """Fixed sines and cosines of each position, added to the embeddings (Vaswani et al. 2017)."""

    is_relative = False  # attention depends on absolute positions
    extrapolates = True  # defined beyond block_size

    frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        exponents = torch.arange(0, config.n_embd, 2, dtype=torch.float32, device="cpu") / config.n_embd
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * exponents), persistent=False)
        self.scale = config.init_std  # as large as the embeddings at initialisation

    @classmethod
    def validate(cls, config: ModelConfig) -> None:
        """Refuse odd widths, which cannot be split into pairs."""
        if config.n_embd % 2:
            raise ValueError(f"sinusoidal positions need an even n_embd, not {config.n_embd}")

    def embed(self, x: Float[Tensor, "B T C"], positions: Int[Tensor, "..."]) -> Float[Tensor, "B T C"]:
        """Add each position's vector; positions are (T,) or (B, T)."""
        angles = positions[..., None] * self.frequencies  # (..., C/2)
        return x + self.scale * torch.cat((angles.sin(), angles.cos()), -1).to(x.dtype)


class PlainRMSNorm(Norm):
    """Root mean square normalisation without a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.shape, self.eps = (width,), eps

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Divide by the root mean square of the last dimension."""
        return F.rms_norm(x, self.shape, eps=self.eps)


class SquaredReluMLP(MLP):
    """Two linear layers with the square of ReLU between (So et al. 2021)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.up = Linear(config.n_embd, config.ffn_dim, bias=False)
        self.down = Linear(config.ffn_dim, config.n_embd, bias=False)  # "down" is initialised as a residual projection

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Widen, activate, narrow."""
        y: Tensor = self.down(F.relu(self.up(x)).square())
        return y
