"""Likelihood metrics: loss, perplexity, and bits per byte, which is comparable across tokenizers."""

import math
from dataclasses import dataclass

_MAX_EXPONENT = 700  # exp overflows above


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The likelihood of a text.

    Attributes:
        loss: nats per token, end-of-text included.
        perplexity: exp(loss); infinite where that overflows.
        bits_per_byte: of the text's own bytes, end-of-text excluded; None where ids do not stand for bytes.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None

    def metrics(self, unit: str = "token") -> dict[str, float]:
        """Return all metrics by name, with bits per byte, or per ``unit`` where ids do not stand for bytes."""
        metrics = {"loss": self.loss, "perplexity": self.perplexity}
        if self.bits_per_byte is not None:
            return {**metrics, "bits_per_byte": self.bits_per_byte}
        # Text whose bytes are not known has bits per token.
        return {**metrics, f"bits_per_{'token' if unit == 'byte' else unit}": self.loss / math.log(2)}

    @classmethod
    def from_loss(cls, loss: float, text_nats: float, n_bytes: int) -> "Likelihood":
        """Compute the other metrics from a loss, and from nats and bytes of the text without end-of-text."""
        bits_per_byte = text_nats / math.log(2) / n_bytes if n_bytes else None
        return cls(loss, math.inf if loss >= _MAX_EXPONENT else math.exp(loss), bits_per_byte)
