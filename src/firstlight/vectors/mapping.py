"""Put word vectors onto a tokenizer's vocabulary: by surface form, else as the mean of a token's pieces."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.tokenizer.tokenizer import Tokenizer
from firstlight.vectors.formats import read
from firstlight.vectors.token_text import merged, surfaces
from firstlight.vectors.word_vectors import forms

WAYS = ("exact", "lower", "pieces", "none", "special")
EXACT, LOWER, PIECES, NONE, SPECIAL = range(len(WAYS))
_HAN = ("\u3400", "\u9fff")


@dataclass(frozen=True)
class Mapped:
    """A vector for each token that has one.

    Attributes:
        matrix: (V, D) float32; zeros where a token has none.
        ways: (V,) how each token came by its vector, a place in ``WAYS``.
        source: the file of the vectors.
    """

    matrix: np.ndarray
    ways: np.ndarray
    source: Path

    @property
    def known(self) -> np.ndarray:
        """Which tokens have a vector (V,)."""
        return self.ways <= PIECES


def onto(tokenizer: Tokenizer, path: Path) -> Mapped:
    """Read the vectors that a vocabulary has a use for, and give each token its own.

    A token's surface form is its text without the mark of a word's edge (the space before it, ``</w>``, ``▁``). It has
    the vector of that form, else of its lower case. Else it has the mean of its pieces, the two parts that were merged
    to make it, each weighted by its length; a part without a vector of its own stands for its own parts in turn. A
    single letter or digit is no such piece, since its vector is that of a word of one letter.

    Args:
        tokenizer: of the model.
        path: the vectors.

    Raises:
        TokenizerError: the file cannot be read.
    """
    texts = surfaces(tokenizer)
    vectors = read(path, frozenset(form for text in texts if text for form in forms(text)))
    size = len(texts)
    matrix = np.zeros((size, vectors.width), dtype=np.float32)
    ways = np.full(size, NONE, dtype=np.uint8)
    for i, text in enumerate(texts):
        found = vectors.find(text) if text else None
        if text is None:
            ways[i] = SPECIAL
        elif found is not None:
            matrix[i], ways[i] = vectors.matrix[found[0]], EXACT if found[1] else LOWER
    _add_pieces(tokenizer, texts, matrix, ways)
    return Mapped(matrix, ways, path)


def _add_pieces(tokenizer: Tokenizer, texts: list[str | None], matrix: np.ndarray, ways: np.ndarray) -> None:
    """Go through the merges in their order, so that the parts of each token are done before it."""
    sums: dict[int, np.ndarray] = {}  # of the pieces of a token, each times its length
    lengths: dict[int, int] = {}
    for i, text in enumerate(texts):
        if ways[i] in (EXACT, LOWER) and text and not (len(text) == 1 and _is_sign_of_many(text)):
            sums[i], lengths[i] = matrix[i] * len(text), len(text)
    for i, parts in merged(tokenizer):
        held = [part for part in parts if part in sums]
        if i in sums or ways[i] != NONE or not held:
            continue
        sums[i], lengths[i] = sum((sums[p] for p in held), np.zeros(matrix.shape[1])), sum(lengths[p] for p in held)
        matrix[i], ways[i] = sums[i] / lengths[i], PIECES


def _is_sign_of_many(character: str) -> bool:
    """Tell a letter or digit, which says nothing alone, from a Chinese character or a punctuation mark."""
    return character.isalnum() and not _HAN[0] <= character <= _HAN[1]
