"""Word vectors: read and written in the formats that others publish, put onto a vocabulary, trained, judged."""

from firstlight.tokenizer.vectors.coverage import Coverage, coverage
from firstlight.tokenizer.vectors.formats import read
from firstlight.tokenizer.vectors.mapping import Mapped, onto
from firstlight.tokenizer.vectors.settings import VectorSettings
from firstlight.tokenizer.vectors.word_vectors import WordVectors
from firstlight.tokenizer.vectors.writing import SUFFIXES, write

__all__ = [
    "SUFFIXES",
    "Coverage",
    "Mapped",
    "VectorSettings",
    "WordVectors",
    "coverage",
    "onto",
    "read",
    "write",
]
