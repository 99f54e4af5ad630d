"""Tokenizers of every kind, trained on untidy text, so that merges reach wherever they may."""

import pytest
from untidy import untidy

from firstlight.tokenizer import PATTERNS, Tokenizer, TokenizerSettings, train
from firstlight.types import Document


@pytest.fixture(scope="session")
def made() -> dict[str, Tokenizer]:
    """One tokenizer of each kind, and byte-level BPE with each pattern."""
    documents = [Document(untidy(seed, 2000), f"text:{seed}") for seed in range(8)]
    kinds: dict[str, Tokenizer] = {
        f"bpe-{pattern}": train(documents, TokenizerSettings(vocab_size=700, pattern=pattern)) for pattern in PATTERNS
    }
    for kind in ("word", "char", "byte"):
        kinds[kind] = train(documents, TokenizerSettings(kind=kind))
    return kinds
