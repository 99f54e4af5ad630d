"""Perplexity, bits per byte, and the baselines that give them a meaning."""

from firstlight.evaluate.contextless import baselines, count, without_context
from firstlight.evaluate.perplexity import Likelihood, Stream, measure, stream_of

__all__ = ["Likelihood", "Stream", "baselines", "count", "measure", "stream_of", "without_context"]
