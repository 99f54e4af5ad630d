"""Parameters and floating-point operations, counted from the shape alone."""

from typing import NamedTuple

import torch

from firstlight.model.config import ModelConfig
from firstlight.model.gpt import GPT
from firstlight.model.mlp import mlp_class
from firstlight.model.skip_init import skip_init


class ParameterCount(NamedTuple):
    """The number of parameters of a model; embeddings are those of tokens and positions, and an untied head."""

    total: int
    embedding: int
    non_embedding: int


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Count the parameters without allocating them."""
    with torch.device("meta"), skip_init():
        model = GPT(config.complete(config.vocab_size or 1))
    total = sum(p.numel() for p in model.parameters())
    embedding = sum(p.numel() for n, p in model.named_parameters() if n.startswith(("embed.", "positions.", "head.")))
    return ParameterCount(total, embedding, total - embedding)


def flops_per_token(config: ModelConfig, T: int) -> float:
    """Count the FLOPs of one token, forward and backward, in sequences of T tokens.

    Six for each weight of a matrix product, with the head and without embeddings (Kaplan et al. 2020), and
    attention's scores and weighted sums, for the average number of positions that a causal (or local) row attends to.
    """
    c = config
    D = c.head_dim
    with torch.device("meta"), skip_init():
        mlp = sum(p.numel() for p in mlp_class(c)(c).parameters() if p.ndim > 1)
    matrices = c.n_layer * (c.n_embd * D * (2 * c.n_head + 2 * c.kv_heads) + mlp) + c.n_embd * (c.vocab_size or 0)
    attended = 0.0
    for layer in range(c.n_layer):
        span = min(c.window, T) if c.is_local(layer) else T
        attended += (span * (span + 1) / 2 + (T - span) * span) / T
    return 6.0 * matrices + 12.0 * c.n_head * D * attended
