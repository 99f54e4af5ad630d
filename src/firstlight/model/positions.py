"""Position schemes: how a model knows the order of its tokens.

To add one, write a subclass of ``PositionScheme`` and a line in ``parts.POSITIONS``, or name it from outside as
``model.positions = "package.module:Class"``.
"""
# ruff: noqa: ARG002, ARG004 - the interface's own methods ignore their arguments

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from firstlight.model.config import ModelConfig, RopeScaling
from firstlight.model.kernels.norm_rope import apply_rotary
from firstlight.model.parts import load_part


class PositionScheme(nn.Module):
    """The interface of a position scheme, and the scheme without any (NoPE, Kazemnejad et al. 2023).

    A scheme overrides what it needs: ``embed`` changes the embeddings, ``rotation`` and ``rotate`` change queries and
    keys, ``bias`` changes attention scores. Its matrices start normal with ``init_std``, its vectors at zero.

    Attributes:
        is_relative: attention depends on distances between positions only.
        extrapolates: defined beyond ``block_size``; GPT refuses longer inputs of other schemes.
        settings: keys of ModelConfig that this scheme reads and others do not.
    """

    is_relative: ClassVar[bool] = True
    extrapolates: ClassVar[bool] = True
    settings: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    @classmethod
    def validate(cls, config: ModelConfig) -> None:
        """Raise ValueError for a model config that this scheme does not support."""

    def embed(self, x: Float[Tensor, "B T C"], positions: Int[Tensor, "..."]) -> Float[Tensor, "B T C"]:
        """Return the embeddings with positions (T,) or (B, T) added."""
        return x

    def rotation(self, positions: Int[Tensor, "..."]) -> tuple[Tensor, ...]:
        """Compute, once per forward pass, the tensors that ``rotate`` gets in every layer; empty: no rotation."""
        return ()

    @staticmethod
    def rotate(x: Float[Tensor, "B T H D"], *rotation: Tensor) -> Float[Tensor, "B T H D"]:
        """Rotate queries or keys by the result of ``rotation``."""
        return x

    def bias(
        self, queries: Int[Tensor, "*B T"], keys: Int[Tensor, "*B S"]
    ) -> Float[Tensor, "B H T S"] | Float[Tensor, "1 H T S"] | None:
        """Compute, once per forward pass, the floats to add to attention scores before the softmax.

        Args:
            queries: positions of the T queries, of all rows or of each.
            keys: positions of the S keys; causal and padding masks are applied by the caller.
        """
        return None


class LearnedPositions(PositionScheme):
    """A learned vector for each position, added to the embeddings (GPT-1 to GPT-3)."""

    is_relative = False
    extrapolates = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.block_size, config.n_embd))
        nn.init.normal_(self.weight)

    def embed(self, x: Float[Tensor, "B T C"], positions: Int[Tensor, "..."]) -> Float[Tensor, "B T C"]:
        """Add each position's vector."""
        return x + F.embedding(positions, self.weight)


class RotaryPositions(PositionScheme):
    """Rotary position embedding, RoPE (Su et al. 2021), with the two halves of a head paired as in GPT-NeoX."""

    extrapolates = False
    settings = frozenset({"rope_theta", "rope_scaling"})

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        half = config.head_dim // 2
        # On the CPU even when the model is built on "meta": arange there would import the compiler.
        pairs, positions = (torch.arange(n, dtype=torch.float64, device="cpu") for n in (half, config.block_size))
        inv_freq = config.rope_theta ** (-pairs / half)
        if config.rope_scaling is not None:
            inv_freq = scale_rope(inv_freq, config.rope_scaling)
        angles = torch.outer(positions, inv_freq)  # (T, D/2)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos().float(), persistent=False)
        self.register_buffer("sin", torch.cat((-angles, angles), -1).sin().float(), persistent=False)

    @classmethod
    def validate(cls, config: ModelConfig) -> None:
        """Refuse odd heads, whose numbers do not form pairs."""
        if config.head_dim % 2:
            raise ValueError(f"rotary positions need an even d_head, not {config.head_dim}")

    def rotation(self, positions: Int[Tensor, "..."]) -> tuple[Tensor, ...]:
        """Return cosines and sines (..., T, 1, D) of the positions' angles."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)

    @staticmethod
    def rotate(x: Float[Tensor, "B T H D"], *rotation: Tensor) -> Float[Tensor, "B T H D"]:
        """Rotate each pair of numbers by its angle."""
        return apply_rotary(x, *rotation)


def scale_rope(inv_freq: Float[Tensor, " d"], scaling: RopeScaling) -> Float[Tensor, " d"]:
    """Scale rotary frequencies for contexts longer than those of pre-training."""
    if scaling.original is None:
        return inv_freq / scaling.factor
    rotations = scaling.original * inv_freq / (2 * math.pi)
    kept = ((rotations - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return inv_freq * (kept + (1 - kept) / scaling.factor)


class AlibiPositions(PositionScheme):
    """Attention with linear biases, ALiBi (Press et al. 2022): each head lowers scores in proportion to distance."""

    slopes: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("slopes", alibi_slopes(config.n_head), persistent=False)

    def bias(
        self, queries: Int[Tensor, "*B T"], keys: Int[Tensor, "*B S"]
    ) -> Float[Tensor, "B H T S"] | Float[Tensor, "1 H T S"] | None:
        """Return minus the distance times the head's slope."""
        distance = (queries[..., :, None] - keys[..., None, :]).to(self.slopes.dtype)  # (*B, T, S)
        bias = -self.slopes[:, None, None] * distance.unsqueeze(-3)  # (*B, H, T, S)
        return bias if bias.ndim == 4 else bias[None]


def alibi_slopes(n_head: int) -> Float[Tensor, " H"]:
    """Return each head's slope: a geometric series from 2^(-8/n), for n heads that are a power of two.

    For other numbers, the series of the next lower power of two is followed by every second slope of the series of
    twice as many heads, as in the paper's code.
    """
    n = 2 ** (n_head.bit_length() - 1)
    slopes = [2.0 ** (-8 * (i + 1) / n) for i in range(n)]
    slopes += [2.0 ** (-4 * (2 * i + 1) / n) for i in range(n_head - n)]
    return torch.tensor(slopes, dtype=torch.float32, device="cpu")


def position_scheme(config: ModelConfig) -> type[PositionScheme]:
    """Return the class of a model's position scheme."""
    scheme: type[PositionScheme] = load_part("positions", config.choice("positions"))
    return scheme
