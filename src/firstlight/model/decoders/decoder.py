"""The interface of a decoder: the forward pass of generation, over a few new positions of several sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """New positions of one sequence.

    Attributes:
        cache: of the sequence, as its decoder has made it.
        position: of the first new one; the cache has all those before.
        ids: tokens, at least one.
        n_logits: for how many of the last of them logits are computed.
    """

    cache: Any
    position: int
    ids: Sequence[int]
    n_logits: int


@runtime_checkable
class Decoder(Protocol):
    """Runs new positions of sequences through a model.

    Attributes:
        chunk_invariant: whether the last bits of a logit do not depend on the chunks in which its sequence was read; on
            a CPU they never depend on other sequences.
        position_bytes: memory of one position of a cache.
    """

    chunk_invariant: bool
    position_bytes: int

    def count_positions(self, capacities: Sequence[int]) -> int:
        """Count the positions that caches of these capacities need together."""
        ...

    def new_cache(self, capacity: int) -> Any:
        """Allocate the cache of a sequence of up to ``capacity`` positions."""
        ...

    def free(self, cache: Any) -> None:
        """Give a cache back."""
        ...

    def copy_prefix(self, source: Any, target: Any, n: int) -> None:
        """Copy the first ``n`` positions of a cache into another."""
        ...

    def forward(self, segments: Sequence[Segment]) -> Float[Tensor, "N V"]:
        """Append new positions to their caches; return the wanted logits in fp32, in the order of the segments.

        Segments are of different sequences.
        """
        ...
