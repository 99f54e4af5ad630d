"""Word vectors: read and written in the formats that others publish, put onto a vocabulary, trained, judged."""

from firstlight.vectors.coverage import Coverage, coverage
from firstlight.vectors.formats import read
from firstlight.vectors.mapping import Mapped, onto
from firstlight.vectors.settings import VectorSettings
from firstlight.vectors.vocabulary import known
from firstlight.vectors.word_vectors import WordVectors
from firstlight.vectors.writing import SUFFIXES, write

__all__ = [
    "SUFFIXES",
    "Coverage",
    "Mapped",
    "VectorSettings",
    "WordVectors",
    "coverage",
    "known",
    "onto",
    "read",
    "write",
]
