"""Perplexity, bits per byte, and the baselines that give them a meaning."""

from firstlight.evaluate.baselines import baselines
from firstlight.evaluate.perplexity import Likelihood, Stream, measure, stream_of

__all__ = ["Likelihood", "Stream", "baselines", "measure", "stream_of"]
