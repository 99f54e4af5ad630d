"""Models with random weights and tokenizers of each kind, small enough to build in every test."""

from functools import cache
from typing import Any

import torch

from firstlight.lm import LM
from firstlight.model import GPT, ModelConfig
from firstlight.tokenizer import Tokenizer, TokenizerSettings, train
from firstlight.types import Document

FAMILIES = ("gpt1", "gpt2", "gpt3", "llama", "modern")
KINDS = ("bpe", "char", "word", "byte")
TEXT = (
    "The sun also rises, and the sun goes down; then it hastens to its place where it rose. "
    "All the rivers run into the sea, yet the sea isn't full!\n"
    "子曰：学而时习之，不亦说乎？有朋自远方来，不亦乐乎？\n"
) * 4


@cache
def tokenizer(kind: str) -> Tokenizer:
    settings = TokenizerSettings(kind=kind, vocab_size=300) if kind == "bpe" else TokenizerSettings(kind=kind)
    return train([Document(TEXT, "text")], settings)


def gpt(family: str, V: int, *, block_size: int = 32, seed: int = 0, init_std: float = 0.4, **shape: Any) -> GPT:
    """A model whose greedy texts differ, since its weights are large."""
    if family in ("llama", "modern"):
        shape = {"n_kv_head": 2, **shape}
    shape = {"n_layer": 3, "n_head": 4, "n_embd": 24 if family in ("gpt1", "gpt2", "gpt3") else 16, **shape}
    config = ModelConfig(family=family, vocab_size=V, block_size=block_size, window=5, init_std=init_std, **shape)
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            if p.ndim == 1:  # norms and biases too must be read and written
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i)) * 0.1)
    return model.eval()


def lm(family: str = "modern", kind: str = "byte", **shape: Any) -> LM:
    words = tokenizer(kind)
    return LM(gpt(family, words.vocab_size, **shape), words)
