"""Perplexity, bits per byte, and the baselines that give them a meaning."""

from firstlight.evaluation.baselines import baseline_likelihoods, baselines, count, position_baseline
from firstlight.evaluation.likelihood import Likelihood
from firstlight.evaluation.perplexity import EncodedText, encode_text, join_ids, row_likelihood, text_likelihood

__all__ = [
    "EncodedText",
    "Likelihood",
    "baseline_likelihoods",
    "baselines",
    "count",
    "encode_text",
    "join_ids",
    "position_baseline",
    "row_likelihood",
    "text_likelihood",
]
