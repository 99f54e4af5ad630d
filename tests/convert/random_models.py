"""Small models of every family with unusual shapes, random weights and a tokenizer."""

from functools import cache
from typing import Any

import pytest
import torch

from firstlight.lm import LM
from firstlight.model import GPT, ModelConfig
from firstlight.tokenizer import Tokenizer, TokenizerSettings, train
from firstlight.types import Document

V, BLOCK = 263, 23
SHAPES: dict[str, dict[str, Any]] = {
    "gpt1": dict(n_layer=2, n_head=3, n_embd=21),
    "gpt2": dict(n_layer=1, n_head=1, n_embd=10, d_ff=37, tie_embeddings=False, mlp="gelu"),
    "gpt3": dict(n_layer=2, n_head=3, n_embd=15, window=5),
    "llama": dict(n_layer=2, n_head=3, n_embd=27, d_head=8, d_ff=50, tie_embeddings=False),
    "modern": dict(
        n_layer=1, n_head=6, n_kv_head=2, n_embd=22, d_head=10, d_ff=35, rope_theta=5e4, tie_embeddings=True
    ),
}
FAMILIES = tuple(SHAPES)
# Between them these have every part: learned positions and bands; rotary ones, grouped queries and norms of both.
QUICK = ("gpt3", "modern")
EACH = [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]


@cache
def tokenizer() -> Tokenizer:
    return train([Document("a", "text")], TokenizerSettings(kind="byte"))


def lm(family: str, **shape: Any) -> LM:
    config = ModelConfig(family=family, vocab_size=V, block_size=BLOCK, init_std=0.3, **{**SHAPES[family], **shape})
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            if p.ndim == 1:  # norms and biases too must be written and read
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return LM(model.eval(), tokenizer())


def text(B: int, T: int) -> torch.Tensor:
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(B + T))
