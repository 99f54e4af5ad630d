"""Words and their vectors, in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class WordVectors:
    """Words with one vector each.

    Attributes:
        words: distinct, in file order: in most published files, the most frequent first.
        matrix: (N, D) float32, finite.
        source: the file that they were read from.
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
        """The row of each word."""
        return {word: row for row, word in enumerate(self.words)}

    def find(self, word: str) -> tuple[int, bool] | None:
        """Look up a word, as it is and then in lower case.

        Returns:
            Its row, and whether it was found as it is; None if it is not found.
        """
        for spelling in spellings(word):
            row = self.rows.get(spelling)
            if row is not None:
                return row, spelling == word
        return None

    def __len__(self) -> int:
        return len(self.words)


def spellings(word: str) -> Iterator[str]:
    """Yield the spellings under which a word is looked up: as it is, then in lower case."""
    yield word
    lower = word.lower()
    if lower != word:
        yield lower
