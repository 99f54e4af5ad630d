"""Word vectors: read and write published formats, map them to a vocabulary, train and evaluate them."""

from firstlight.vectors.mapping import Coverage, MappedVectors, compute_coverage, map_to_vocab, select_words
from firstlight.vectors.readers import check_vectors, read_vectors
from firstlight.vectors.settings import VectorSettings
from firstlight.vectors.word2vec_format import OnBadBytes
from firstlight.vectors.word_vectors import WordVectors
from firstlight.vectors.writers import WRITERS, check_vectors_output, write_vectors

__all__ = [
    "WRITERS",
    "Coverage",
    "MappedVectors",
    "OnBadBytes",
    "VectorSettings",
    "WordVectors",
    "check_vectors",
    "check_vectors_output",
    "compute_coverage",
    "map_to_vocab",
    "read_vectors",
    "select_words",
    "write_vectors",
]
