"""Perplexity and bits per byte of a model, and of baselines without context."""

from firstlight.evaluation.baselines import baseline_likelihoods, count_ids, position_baseline
from firstlight.evaluation.by_position import loss_by_position
from firstlight.evaluation.likelihood import Likelihood
from firstlight.evaluation.perplexity import EncodedText, encode_text, join_ids, row_likelihood, text_likelihood

__all__ = [
    "EncodedText",
    "Likelihood",
    "baseline_likelihoods",
    "count_ids",
    "encode_text",
    "join_ids",
    "loss_by_position",
    "position_baseline",
    "row_likelihood",
    "text_likelihood",
]
