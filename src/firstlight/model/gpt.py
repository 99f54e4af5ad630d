"""The GPT: embeddings, blocks of attention and MLP, a final norm, a head.

Letters in shape comments, here and in the whole package: B rows, T positions, C width (n_embd),
H query heads, K key/value heads, D width of a head, F inner width of the MLP, V vocabulary,
L layers, S positions including cached ones.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from firstlight.model.attention import Attention
from firstlight.model.cache import KVCache, Mask, StaticCache
from firstlight.model.config import ModelConfig
from firstlight.model.kernels.linear import Linear, linear
from firstlight.model.kernels.norm_rope import use_custom_backward
from firstlight.model.loss import Loss, linear_cross_entropy, linear_nll
from firstlight.model.mlp import mlp_class
from firstlight.model.norms import build_norm
from firstlight.model.positions import position_scheme


class Block(nn.Module):
    """Attention, then MLP, each with a residual connection; norms before them (pre) or after the sums (post, GPT-1)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.post_norm = config.defaults.norm_position == "post"
        self.norm1 = build_norm(config, config.n_embd)
        self.attention = Attention(config, layer)
        self.norm2 = build_norm(config, config.n_embd)
        self.mlp = mlp_class(config)(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        rotation: tuple[Tensor, ...],
        mask: Mask | Sequence[Mask | None] | None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Apply attention and MLP; arguments as of ``Attention.forward``."""
        if self.post_norm:
            x = self.norm1(x + self.dropout(self.attention(x, rotation, mask, cache)))
            return self.norm2(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]
        x = x + self.dropout(self.attention(self.norm1(x), rotation, mask, cache))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """A decoder-only Transformer of any family.

    Args:
        config: the shape, with ``vocab_size``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size, "vocab_size must be set before a model is built"
        self.config = config = config.complete(config.vocab_size)
        self.activation_checkpointing = False
        V, C = config.vocab_size or 0, config.n_embd
        self.embed = nn.Embedding(V, C)
        self.positions = position_scheme(config)(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = build_norm(config, C) if config.defaults.norm_position == "pre" else nn.Identity()
        self.head = None if config.tied else Linear(C, V, bias=False)
        self.heads = nn.ModuleDict()  # classification heads of fine-tuned tasks, by name

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        *,
        starts: Bool[Tensor, "B T"] | None = None,
        cache: StaticCache | None = None,
        with_head: bool = False,
    ) -> Float[Tensor, "B T C"]:
        """Compute the last hidden states, after the final norm.

        Args:
            ids: tokens; with a cache, those after the cached ones.
            starts: True where a packed document starts; it then attends to and counts its own positions only.
            cache: keys and values of earlier positions, to which these are appended.
            with_head: the head's gradient will be computed together with that of these states.
        """
        _, T = ids.shape
        n = T + (max(cache.lengths) if cache is not None else 0)
        if n > self.config.block_size and not self.positions.extrapolates:
            raise ValueError(
                f"{n} tokens do not fit block_size={self.config.block_size}, "
                f"beyond which {self.config.positions} positions are not defined"
            )
        queries, dense, local = self._cache_masks(cache, T) if cache is not None else self._masks(ids, starts)
        x = self.dropout(self.positions.embed(self._embed(ids, with_head), queries))
        rotation = self.positions.rotation(queries)
        for layer, block in enumerate(self.blocks):
            mask = local if self.config.is_local(layer) else dense
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rotation, mask, use_reentrant=False)
            else:
                x = block(x, rotation, mask, cache)
        if cache is not None:
            cache.advance(T)
        return self.norm(x)  # type: ignore[no-any-return]

    @property
    def _windows(self) -> tuple[int | None, int | None]:
        """The positions that dense and local layers see, the current one included; None: all before it."""
        has_local = any(self.config.is_local(layer) for layer in range(self.config.n_layer))
        return None, self.config.window if has_local else None

    def _masks(self, ids: Tensor, starts: Tensor | None) -> tuple[Tensor, Mask | None, Mask | None]:
        """Return the positions of all tokens, and the masks of dense and local layers."""
        T = ids.shape[1]
        queries, allowed = _positions(ids, starts)
        bias = self.positions.bias(queries, queries)
        dense, local = (_with_bias(_mask(T, 0, allowed, w, ids.device), bias, T, 0) for w in self._windows)
        return queries, dense, local

    def _cache_masks(self, cache: StaticCache, T: int) -> tuple[Tensor, list[Mask | None], list[Mask | None]]:
        """Return the positions of T new tokens, and the masks of dense and local layers for each group of the cache."""
        dense, local = list[Mask | None](), list[Mask | None]()
        for group in cache.groups():
            before, device = max(group.lengths), cache.store.device
            keys = torch.arange(before + T, device=device)
            queries = torch.tensor(group.lengths, device=device)[:, None] + torch.arange(T, device=device)  # (B, T)
            is_even = len(set(group.lengths)) == 1
            bias = self.positions.bias(queries, keys.expand(len(queries), -1))
            distance = queries[:, :, None] - keys
            for found, window in zip((dense, local), self._windows, strict=True):
                if is_even:
                    mask = _mask(T, before, None, window, device)
                else:
                    mask = ((distance >= 0) & (distance < (window or before + T)))[:, None]
                found.append(_with_bias(mask, bias, T, before))
        return cache.positions(T), dense, local

    def _embed(self, ids: Tensor, with_head: bool) -> Tensor:
        """Look up token embeddings."""
        # With tied embeddings their gradient has the head's as well: a sparse one is added to that at the cost of a few
        # rows, instead of a second whole matrix.
        shared = with_head and self.head is None and isinstance(self.embed, nn.Embedding)
        if shared and torch.is_grad_enabled() and use_custom_backward(self.embed.weight):
            return F.embedding(ids, self.embed.weight, sparse=True)
        x: Tensor = self.embed(ids)
        return x

    def add_head(self, name: str, n: int) -> None:
        """Add a task's head with ``n`` outputs and no bias; the caller initialises or loads its weights."""
        self.heads[name] = Linear(self.config.n_embd, n, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V C"]:
        """The matrix from hidden states to logits."""
        return self.embed.weight if self.head is None else self.head.weight

    @property
    def factors(self) -> Mapping[str, nn.Parameter]:
        """The two factors of factorised embeddings, by name; empty for plain ones."""
        return dict(self.embed.named_parameters()) if hasattr(self.embed, "project_down") else {}

    def _head_inputs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states and the matrix to logits; for factorised embeddings, both in the factors' width."""
        if self.head is None and hasattr(self.embed, "project_down"):
            return cast(Any, self.embed).project_down(hidden), cast(Any, self.embed).vectors
        return hidden, self.head_weight

    def forward(
        self, ids: Int[Tensor, "B T"], *, starts: Bool[Tensor, "B T"] | None = None, cache: StaticCache | None = None
    ) -> Float[Tensor, "B T V"]:
        """Compute the logits of the token after each position."""
        return self.logits(self.hidden(ids, starts=starts, cache=cache))

    def logits(self, hidden: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
        """Compute the logits of hidden states."""
        if self.head is not None:
            return self.head(hidden)  # type: ignore[no-any-return]
        embed: nn.Module = self.embed
        if isinstance(embed, nn.Embedding):
            return linear(hidden, embed.weight)
        y: Tensor = cast(Any, embed).logits(hidden)  # int8 or factorised embeddings
        return y

    def loss(
        self,
        inputs: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        weights: Float[Tensor, "B T"] | None = None,
        starts: Bool[Tensor, "B T"] | None = None,
    ) -> Loss:
        """Compute the weighted sum (not the mean) of cross-entropies in nats, and the sum of weights."""
        hidden, head = self._head_inputs(self.hidden(inputs, starts=starts, with_head=True))
        return linear_cross_entropy(hidden, head, targets, weights)

    def token_nll(
        self, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], starts: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Compute the negative log-likelihood of each target in nats, without gradients."""
        with torch.no_grad():
            return linear_nll(*self._head_inputs(self.hidden(inputs, starts=starts)), targets)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise the weights of a new model.

        Matrices and embeddings are normal with ``init_std``; residual projections (attention.out, mlp.down) have
        that over sqrt(2 n_layer), or are zero (GPT-2, section 2.3; muP-like with zero). gpt3's queries have it over
        sqrt(d_head), since its scores are not scaled. Biases are zero, norms one. An untied head is zero where
        residual projections are.
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
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * std
            if config.family == "gpt3" and name.endswith("qkv.weight"):
                values[: config.n_embd] *= config.head_dim**-0.5
            parameter.copy_(values)


@contextlib.contextmanager
def eval_mode(model: GPT) -> Iterator[None]:
    """Put ``model`` into evaluation mode (no dropout), and back."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def fused_splits(model: GPT) -> Mapping[str, Sequence[int]]:
    """Return the rows of each part of the fused matrices, by parameter name; optimizers may update parts separately."""
    c = model.config
    D = c.head_dim
    splits: dict[str, tuple[int, ...]] = {"attention.qkv.weight": (c.n_head * D, c.kv_heads * D, c.kv_heads * D)}
    splits |= {f"mlp.{name}": rows for name, rows in mlp_class(c).fused_splits(c).items()}
    names = dict(model.named_parameters())
    return {
        name: rows for i in range(c.n_layer) for tail, rows in splits.items() if (name := f"blocks.{i}.{tail}") in names
    }


def _positions(ids: Tensor, starts: Tensor | None) -> tuple[Int[Tensor, "..."], Bool[Tensor, "B 1 T T"] | None]:
    """Return the positions of all tokens, and which keys documents allow, if not all."""
    _, T = ids.shape
    index = torch.arange(T, device=ids.device)
    if starts is None:
        return index, None
    document = starts.cumsum(1)  # (B, T)
    first = torch.where(starts, index, 0).cummax(1).values
    same = document[:, :, None] == document[:, None, :]
    return index - first, same[:, None]


def _mask(
    T: int, before: int, allowed: Tensor | None, window: int | None, device: torch.device
) -> Bool[Tensor, "..."] | None:
    """Return which keys each of the last T positions attends to, or None where the plain causal mask is enough.

    Args:
        T: query positions.
        before: positions ahead of them.
        allowed: keys that documents allow, if not all.
        window: positions that a local layer sees, the current one included.
        device: of the mask.
    """
    S = before + T
    is_local = window is not None and window < S
    if allowed is None and not is_local and (before == 0 or T == 1):
        return None
    mask = torch.ones(T, S, dtype=torch.bool, device=device).tril(before)
    if window is not None and is_local:
        mask = mask.triu(before - window + 1)
    if allowed is not None:
        mask = mask & allowed
    return mask


def _with_bias(mask: Tensor | None, bias: Tensor | None, T: int, before: int) -> Mask | None:
    """Merge a position scheme's bias and a mask into one additive mask."""
    if bias is None:
        return mask
    if not bias.is_floating_point():
        bias = bias.float()  # masked entries are infinite
    if mask is None:
        mask = torch.ones(T, before + T, dtype=torch.bool, device=bias.device).tril(before)
    return bias.masked_fill(~mask, -torch.inf)
