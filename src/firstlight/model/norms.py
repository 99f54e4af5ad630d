"""Norms over the last dimension.

To add one, write a subclass of ``Norm`` and a line in ``parts.NORMS``, or name it from outside as
``model.norm = "package.module:Class"``.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from firstlight.model.config import ModelConfig
from firstlight.model.kernels.norm_rope import rms_norm
from firstlight.model.parts import load_part


class Norm(nn.Module, ABC):
    """The interface of a norm, built as ``Norm(width, eps=eps)``; a vector called ``weight`` starts at one.

    Attributes:
        default_eps: added to the variance where ``model.norm_eps`` is not set.
    """

    default_eps: ClassVar[float] = 1e-5

    @abstractmethod
    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Normalise the last dimension."""


class LayerNorm(nn.LayerNorm, Norm):
    """Layer normalisation (Ba et al. 2016), torch's own."""


class RMSNorm(nn.RMSNorm, Norm):
    """Root mean square normalisation (Zhang and Sennrich 2019), with a custom backward pass where that is faster."""

    default_eps = 1e-6

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Divide by the root mean square, then scale."""
        assert self.weight is not None and self.eps is not None
        return rms_norm(x, self.weight, self.eps)


def build_norm(config: ModelConfig, width: int) -> Norm:
    """Build the norm that a model uses, over vectors of ``width``."""
    norm: Norm = load_part("norm", config.choice("norm"))(width, eps=config.eps)
    return norm
