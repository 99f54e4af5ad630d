"""Words and their vectors."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class WordVectors:
    """Words, each with a vector.

    Attributes:
        words: none twice, in the order of their file: with most that are published, the commonest first.
        matrix: (N, D) float32, finite.
        source: where they were read.
    """

    words: list[str]
    matrix: np.ndarray
    source: Path

    @property
    def width(self) -> int:
        """D."""
        return int(self.matrix.shape[1])

    @cached_property
    def rows(self) -> dict[str, int]:
        """Each word's row."""
        return {word: row for row, word in enumerate(self.words)}

    def find(self, word: str) -> tuple[int, bool] | None:
        """Return the row of a word, and whether it stands there as it is written; else in lower case; else None."""
        for form in forms(word):
            row = self.rows.get(form)
            if row is not None:
                return row, form == word
        return None

    def __len__(self) -> int:
        return len(self.words)


def forms(word: str) -> Iterator[str]:
    """Yield the ways in which a word is looked for: as it is written, then in lower case."""
    yield word
    lower = word.lower()
    if lower != word:
        yield lower
