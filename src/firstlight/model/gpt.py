"""The GPT: embeddings, blocks of attention and MLP, a norm, a head.

Letters in shape comments, here and in the whole package: B rows, T positions, C width (n_embd),
H query heads, K key/value heads, D width of a head, F inner width of the MLP, V vocabulary,
L layers, S positions held in a cache.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from firstlight.model.attention import Attention, Rotary, Turn
from firstlight.model.cache import Cache, KVCache
from firstlight.model.config import ModelConfig
from firstlight.model.kernels.linear import Linear, linear
from firstlight.model.kernels.norm_rope import use_custom_backward
from firstlight.model.loss import Loss, linear_cross_entropy, linear_nll
from firstlight.model.mlp import GatedMLP, GeluMLP
from firstlight.model.norms import norm


class Block(nn.Module):
    """Attention, then MLP, each added to its input; norms before (pre) or after the sum (post, GPT-1)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.post = config.choices["norm_position"] == "post"
        self.norm1 = norm(config, config.n_embd)
        self.attention = Attention(config, layer)
        self.norm2 = norm(config, config.n_embd)
        self.mlp = GatedMLP(config) if config.gated else GeluMLP(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        angles: Turn | None,
        mask: Bool[Tensor, "..."] | None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Mix positions, then work on each."""
        if self.post:
            x = self.norm1(x + self.dropout(self.attention(x, angles, mask, cache)))
            return self.norm2(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]
        x = x + self.dropout(self.attention(self.norm1(x), angles, mask, cache))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """A decoder-only Transformer of any of the five families.

    Args:
        config: the shape; ``vocab_size`` must be known.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size, "the vocabulary is known before a model is built"
        self.config = config = config.complete(config.vocab_size)
        self.activation_checkpointing = False
        V, C = config.vocab_size or 0, config.n_embd
        self.embed = nn.Embedding(V, C)
        self.positions = None if config.rotary else nn.Embedding(config.block_size, C)
        self.rotary = Rotary(config) if config.rotary else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = norm(config, C) if config.choices["norm_position"] == "pre" else nn.Identity()
        self.head = None if config.tied else Linear(C, V, bias=False)
        self.heads = nn.ModuleDict()  # of labelled tasks, by name

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        *,
        starts: Bool[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        with_head: bool = False,
    ) -> Float[Tensor, "B T C"]:
        """Return the last hidden states, after the last norm.

        Args:
            ids: tokens; with a cache, the ones after those it holds.
            starts: True where a document begins; it then sees and counts only its own positions.
            cache: holds earlier positions, and takes up these.
            with_head: True where the head's gradient will be asked for together with these states'.
        """
        _, T = ids.shape
        before = cache.length if cache is not None else 0
        assert before + T <= self.config.block_size, "the caller keeps texts within block_size"
        positions, allowed = _places(ids, before, starts, cache)
        # Tied, the embeddings' gradient has the head's as well: a few rows are added to that, not a second matrix.
        shared = with_head and self.head is None and isinstance(self.embed, nn.Embedding)
        few = shared and torch.is_grad_enabled() and use_custom_backward(self.embed.weight)
        x = F.embedding(ids, self.embed.weight, sparse=True) if few else self.embed(ids)
        if self.positions is not None:
            x = x + self.positions(positions)
        x = self.dropout(x)
        angles = None if self.rotary is None else self.rotary(positions)
        dense = banded = _mask(T, before, allowed, None, ids.device)
        if self.config.family == "gpt3":
            banded = _mask(T, before, allowed, self.config.window, ids.device)
        for layer, block in enumerate(self.blocks):
            mask = banded if self.config.is_local(layer) else dense
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, angles, mask, use_reentrant=False)
            else:
                x = block(x, angles, mask, cache)
        if cache is not None:
            cache.advance(T)
        return self.norm(x)  # type: ignore[no-any-return]

    def add_head(self, name: str, n: int) -> None:
        """Give a task a head of ``n`` outputs, without a bias; its weights are the caller's to draw or load."""
        self.heads[name] = Linear(self.config.n_embd, n, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V C"]:
        """The matrix from hidden states to logits."""
        return self.embed.weight if self.head is None else self.head.weight

    @property
    def factors(self) -> Mapping[str, nn.Parameter]:
        """The vectors and the projection that the embeddings are a product of; none for embeddings that are whole."""
        return dict(self.embed.named_parameters()) if hasattr(self.embed, "inward") else {}

    def _read_out(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states and the matrix to logits; both of the width of word vectors where those are the head."""
        if self.head is None and hasattr(self.embed, "inward"):
            return cast(Any, self.embed).inward(hidden), cast(Any, self.embed).vectors
        return hidden, self.head_weight

    def forward(
        self, ids: Int[Tensor, "B T"], *, starts: Bool[Tensor, "B T"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "B T V"]:
        """Return the logits of the token that follows each position."""
        return self.logits(self.hidden(ids, starts=starts, cache=cache))

    def logits(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
        """Return the logits of hidden states."""
        if self.head is not None:
            return self.head(hidden)  # type: ignore[no-any-return]
        embed: nn.Module = self.embed
        if isinstance(embed, nn.Embedding):
            return linear(hidden, embed.weight)
        y: Tensor = cast(Any, embed).times(hidden)  # of int8, or of factors
        return y

    def loss(
        self,
        inputs: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        weights: Float[Tensor, "B T"] | None = None,
        starts: Bool[Tensor, "B T"] | None = None,
    ) -> Loss:
        """Return the weighted sum of -log P(target) in nats, and the sum of weights: never a mean."""
        return linear_cross_entropy(
            *self._read_out(self.hidden(inputs, starts=starts, with_head=True)), targets, weights
        )

    def token_nll(
        self, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], starts: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Return -log P(target) of each position in nats, without gradients."""
        with torch.no_grad():
            return linear_nll(*self._read_out(self.hidden(inputs, starts=starts)), targets)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights of a new model.

        Matrices and embeddings are normal with ``init_std``; residual projections (attention.out, mlp.down) have
        that over sqrt(2 n_layer), or are zero (GPT-2, section 2.3; muP-like with zero). gpt3's queries have it over
        sqrt(d_head), since its scores are not scaled. Biases are zero, norms one. An untied head starts at zero
        where residual projections do.
        """
        config = self.config
        residual = 0.0 if config.residual_init == "zero" else config.init_std / math.sqrt(2 * config.n_layer)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            std = residual if name.endswith(("out.weight", "down.weight")) else config.init_std
            if name == "head.weight" and config.residual_init == "zero":
                std = 0.0
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * std
            if config.family == "gpt3" and name.endswith("qkv.weight"):
                drawn[: config.n_embd] *= config.head_dim**-0.5
            parameter.copy_(drawn)


def fused_splits(model: GPT) -> Mapping[str, Sequence[int]]:
    """Return the rows of each part of the fused matrices, which an optimiser may treat one by one."""
    c = model.config
    D = c.head_dim
    parts = {"qkv.weight": (c.n_head * D, c.kv_heads * D, c.kv_heads * D), "gate_up.weight": (c.ffn_dim, c.ffn_dim)}
    return {
        name: parts[tail] for name, _ in model.named_parameters() if (tail := ".".join(name.split(".")[-2:])) in parts
    }


def _places(
    ids: Tensor, before: int, starts: Tensor | None, cache: Cache | None
) -> tuple[Tensor, Bool[Tensor, "B 1 T S"] | None]:
    """Return each token's position, and what it may see where that is not all before it."""
    _, T = ids.shape
    places = torch.arange(before, before + T, device=ids.device)
    if starts is not None:
        document = starts.cumsum(1)  # (B, T)
        first = torch.where(starts, places, 0).cummax(1).values
        same = document[:, :, None] == document[:, None, :]
        return places - first, same[:, None]
    if cache is not None and cache.pad is not None:
        seen = torch.arange(before + T, device=ids.device) >= cache.pad[:, None]  # (B, S)
        shifted = (places - cache.pad[:, None]).clamp_min(0)  # (B, T)
        return shifted, seen[:, None, None, :].expand(-1, 1, T, -1)
    return places, None


def _mask(
    T: int, before: int, allowed: Tensor | None, window: int | None, device: torch.device
) -> Bool[Tensor, "..."] | None:
    """Return what each of the last T positions sees (True), or None where the plain causal rule says it all.

    Args:
        T: positions that ask.
        before: positions ahead of them.
        allowed: the rule of documents or padding, if any.
        window: positions that a banded layer sees, the current one included.
        device: where the mask is wanted.
    """
    S = before + T
    is_banded = window is not None and window < S
    if allowed is None and not is_banded and (before == 0 or T == 1):
        return None
    mask = torch.ones(T, S, dtype=torch.bool, device=device).tril(before)
    if window is not None and is_banded:
        mask = mask.triu(before - window + 1)
    if allowed is not None:
        # A row of padding sees itself: softmax over nothing would be NaN and spread.
        mask = (mask & allowed) | torch.eye(S, dtype=torch.bool, device=device)[before:]
    return mask
