"""Perplexity, bits per byte, and the baselines that give them a meaning."""

from firstlight.evaluation.baselines import baselines, by_position, count, without_context
from firstlight.evaluation.likelihood import Likelihood
from firstlight.evaluation.perplexity import Stream, ids_of, measure, measure_rows, stream_of

__all__ = [
    "Likelihood",
    "Stream",
    "baselines",
    "by_position",
    "count",
    "ids_of",
    "measure",
    "measure_rows",
    "stream_of",
    "without_context",
]
