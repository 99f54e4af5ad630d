"""Norms."""

from jaxtyping import Float
from torch import Tensor, nn

from firstlight.model.config import ModelConfig
from firstlight.model.kernels.norm_rope import rms_norm


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
