"""The key-value cache of generation: a new token costs one position."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from firstlight.model.config import ModelConfig


@runtime_checkable
class KVCache(Protocol):
    """The interface of a cache that attention uses."""

    def update(
        self, layer: int, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T D"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S D"]]:
        """Append the keys and values of T new positions of one layer; return those of all S positions."""
        ...


class StaticCache:
    """A preallocated key-value cache.

    Attributes:
        length: cached positions.
        pad: (B,) padding tokens at the left of each row, or None.
    """

    def __init__(
        self, config: ModelConfig, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layer, 2, batch_size, config.kv_heads, max_length, config.head_dim)
        self._store = torch.zeros(shape, device=device, dtype=dtype)  # (L, 2, B, K, S, D)
        self.max_length = max_length
        self.length = 0
        self.pad: Tensor | None = None

    def update(
        self, layer: int, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T D"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S D"]]:
        """Append the keys and values of T new positions of one layer; return those of all S positions."""
        end = self.length + k.shape[2]
        assert end <= self.max_length, "the caller slides the window before the cache is full"
        cached = self._store[layer]
        cached[0, :, :, self.length : end] = k
        cached[1, :, :, self.length : end] = v
        return cached[0, :, :, :end], cached[1, :, :, :end]

    def advance(self, n: int) -> None:
        """Count ``n`` positions that every layer has appended."""
        self.length += n

    def reset(self) -> None:
        """Empty the cache."""
        self.length, self.pad = 0, None


def new_cache(
    config: ModelConfig, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype
) -> StaticCache:
    """Allocate an empty cache for ``batch_size`` sequences of up to ``max_length`` positions."""
    return StaticCache(config, batch_size, min(max_length, config.block_size), device, dtype)
