"""Keys and values of the positions seen so far, so that a new token costs one position."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from firstlight.model.config import ModelConfig


@runtime_checkable
class KVCache(Protocol):
    """What a block asks of a cache."""

    def extend(
        self, layer: int, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T D"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S D"]]:
        """Add the keys and values of T new positions of one layer; return all that it holds."""
        ...


class Cache:
    """A preallocated key-value cache.

    Attributes:
        length: positions held.
        pad: (B,) tokens of padding at the left of each row, or None.
    """

    def __init__(self, config: ModelConfig, rows: int, size: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.n_layer, 2, rows, config.kv_heads, size, config.head_dim)
        self._store = torch.zeros(shape, device=device, dtype=dtype)  # (L, 2, B, K, S, D)
        self.size = size
        self.length = 0
        self.pad: Tensor | None = None

    def extend(
        self, layer: int, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T D"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S D"]]:
        """Add the keys and values of T new positions of one layer; return all that it holds."""
        end = self.length + k.shape[2]
        assert end <= self.size, "the caller slides the window before the cache is full"
        held = self._store[layer]
        held[0, :, :, self.length : end] = k
        held[1, :, :, self.length : end] = v
        return held[0, :, :, :end], held[1, :, :, :end]

    def advance(self, n: int) -> None:
        """Count ``n`` positions that every layer has taken."""
        self.length += n

    def reset(self) -> None:
        """Forget everything."""
        self.length, self.pad = 0, None


def new_cache(config: ModelConfig, rows: int, size: int, device: torch.device, dtype: torch.dtype) -> Cache:
    """Return an empty cache for ``rows`` texts of up to ``size`` positions."""
    return Cache(config, rows, min(size, config.block_size), device, dtype)
