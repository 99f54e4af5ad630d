"""A handful of word vectors for tests."""

from pathlib import Path

import numpy as np

from firstlight.vectors import WordVectors

WORDS = ["the", "cat", "Sat", "été", "猫", "mat", "un", "happy", ","]


def some(width: int = 4, words: list[str] | None = None) -> WordVectors:
    words = WORDS if words is None else words
    matrix = np.random.default_rng(3).normal(size=(len(words), width)).astype(np.float32)
    return WordVectors(words, matrix, Path("made"))


def same(a: WordVectors, b: WordVectors) -> bool:
    return a.words == b.words and a.matrix.tobytes() == b.matrix.tobytes()
