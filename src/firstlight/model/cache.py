"""The key-value cache of generation: a new token costs one position. Sequences of a batch have their own lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from firstlight.model.config import ModelConfig

Mask = Bool[Tensor, "..."] | Float[Tensor, "..."]  # True where a key is seen, or a number added to its score


@runtime_checkable
class KVCache(Protocol):
    """The interface of a cache that attention uses."""

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T D"],
        masks: Sequence[Mask | None],
        scale: float,
    ) -> Float[Tensor, "B H T D"]:
        """Append the keys and values of T new positions of one layer, and attend to all positions.

        Args:
            layer: index of the layer.
            q: queries of the new positions.
            k: their keys.
            v: their values.
            masks: of each of the cache's groups.
            scale: factor of the scores.
        """
        ...


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Sequences that one call of attention reads.

    Attributes:
        first: index of the first one.
        end: index after the last one.
        lengths: their cached positions.
    """

    first: int
    end: int
    lengths: tuple[int, ...]


class StaticCache:
    """A preallocated key-value cache.

    On a CPU attention reads one sequence after the other: a sum over keys then has as many terms as the sequence has
    positions, so that no bit of it depends on the other sequences. On a GPU it reads all at once, with a mask.

    Args:
        store: (L, 2, N, K, S, D).
        rows: the rows of the store that the B sequences of a batch have.
        lengths: cached positions of each.
    """

    def __init__(self, store: Float[Tensor, "L 2 N K S D"], rows: Sequence[int], lengths: Sequence[int]) -> None:
        self.store, self.rows, self.lengths = store, list(rows), list(lengths)
        self._is_whole = self.rows == list(range(len(self.rows)))
        self._index: tuple[Tensor, Tensor] | None = None

    @property
    def max_length(self) -> int:
        """S: positions of each row."""
        return self.store.shape[4]

    def groups(self) -> list[CacheGroup]:
        """Return which sequences attention reads together."""
        if self.store.device.type == "cpu" or not self._is_whole:
            return [CacheGroup(i, i + 1, (n,)) for i, n in enumerate(self.lengths)]
        return [CacheGroup(0, len(self.rows), tuple(self.lengths))]

    def positions(self, T: int) -> Int[Tensor, "B T"]:
        """Return the positions of the next T tokens of each sequence, which ``attend`` will get."""
        assert max(self.lengths) + T <= self.max_length, "the caller slides the window before the cache is full"
        device = self.store.device
        positions = torch.tensor(self.lengths, device=device)[:, None] + torch.arange(T, device=device)
        self._index = torch.tensor(self.rows, device=device)[:, None], positions
        return positions

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T D"],
        masks: Sequence[Mask | None],
        scale: float,
    ) -> Float[Tensor, "B H T D"]:
        """Append the keys and values of T new positions of one layer, and attend to all positions."""
        T, outputs = q.shape[2], []
        keys, values = self.store[layer]  # (N, K, S, D)
        assert self._index is not None
        rows, positions = self._index
        keys[rows, :, positions] = k.transpose(1, 2).to(keys.dtype)
        values[rows, :, positions] = v.transpose(1, 2).to(values.dtype)
        for group, mask in zip(self.groups(), masks, strict=True):
            first, end = self.rows[group.first], self.rows[group.end - 1] + 1
            n = max(group.lengths) + T
            y = F.scaled_dot_product_attention(
                q[group.first : group.end],
                keys[first:end, :, :n].to(q.dtype),
                values[first:end, :, :n].to(q.dtype),
                attn_mask=mask if mask is None or not mask.is_floating_point() else mask.to(q.dtype),
                is_causal=mask is None and T > 1,
                scale=scale,
                enable_gqa=keys.shape[1] != q.shape[1],
            )
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def advance(self, n: int) -> None:
        """Count ``n`` positions that every layer has appended."""
        self.lengths = [length + n for length in self.lengths]


def new_store(
    config: ModelConfig, rows: int, max_length: int, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "L 2 N K S D"]:
    """Allocate keys and values of ``rows`` sequences of up to ``max_length`` positions."""
    shape = (config.n_layer, 2, rows, config.kv_heads, max_length, config.head_dim)
    return torch.zeros(shape, device=device, dtype=dtype)


def new_cache(
    config: ModelConfig, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype
) -> StaticCache:
    """Allocate an empty cache for ``batch_size`` sequences of up to ``max_length`` positions."""
    store = new_store(config, batch_size, min(max_length, config.block_size), device, dtype)
    return StaticCache(store, range(batch_size), [0] * batch_size)
