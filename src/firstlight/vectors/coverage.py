"""How much of a vocabulary, and of a text, word vectors cover."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from firstlight.vectors.mapping import NONE, PIECES, SPECIAL, WAYS, Mapped

_NAMED = 50


@dataclass(frozen=True, slots=True)
class Coverage:
    """What has a vector: of the tokens of a vocabulary (types), and of a text (tokens).

    Attributes:
        source: the file of the vectors.
        width: of the vectors.
        types: tokens of the vocabulary by how they came by their vector: exact, lower, pieces, none.
        tokens: the same of the training text.
        missing: the commonest tokens without a vector, with their counts.
        pieced: the commonest ones that have the mean of their pieces.
    """

    source: str
    width: int
    types: dict[str, int]
    tokens: dict[str, int]
    missing: list[tuple[str, int]]
    pieced: list[tuple[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)

    def sentence(self) -> str:
        """Say it in one line, the commonest missing tokens named."""
        types, tokens = _shares(self.types), _shares(self.tokens)
        named = ", ".join(repr(token) for token, _ in self.missing[:8])
        return f"of {sum(self.types.values()):,} tokens in the vocabulary, {types}; of the training text, {tokens}" + (
            f"; without a vector: {named}" if named else ""
        )


def coverage(mapped: Mapped, tokens: Sequence[str], counts: np.ndarray, unk_id: int | None) -> Coverage:
    """Count what has a vector.

    Args:
        mapped: the vectors.
        tokens: each token's text.
        counts: how often the training text has each (V,).
        unk_id: the token that stands for words outside the vocabulary; it counts as missing.
    """
    ways = mapped.ways.copy()
    if unk_id is not None:
        ways[unk_id] = NONE
    kinds = range(SPECIAL)
    return Coverage(
        str(mapped.source),
        int(mapped.matrix.shape[1]),
        {WAYS[kind]: int((ways == kind).sum()) for kind in kinds},
        {WAYS[kind]: int(counts[ways == kind].sum()) for kind in kinds},
        _commonest(ways == NONE, tokens, counts),
        _commonest(ways == PIECES, tokens, counts),
    )


def _commonest(which: np.ndarray, tokens: Sequence[str], counts: np.ndarray) -> list[tuple[str, int]]:
    ids = np.flatnonzero(which & (counts > 0))
    order = ids[np.argsort(-counts[ids], kind="stable")][:_NAMED]
    return [(tokens[i], int(counts[i])) for i in order]


def _shares(counts: dict[str, int]) -> str:
    total = max(1, sum(counts.values()))
    said = {
        "exact": "have a vector",
        "lower": "that of their lower case",
        "pieces": "the mean of their pieces",
        "none": "none",
    }
    parts = [
        f"{100 * counts[way] / total:.1f} % {words}" for way, words in said.items() if counts[way] or way == "none"
    ]
    return ", ".join(parts)
