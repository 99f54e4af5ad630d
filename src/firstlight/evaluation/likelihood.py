"""What a likelihood says: loss, perplexity, and bits per byte, which is comparable across tokenizers."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a text is.

    Attributes:
        loss: nats a token, end-of-text included.
        perplexity: exp of the loss; infinite where that overflows.
        bits_per_byte: of the text's own bytes; end-of-text counts in neither. None where ids stand for no bytes.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None

    def figures(self, unit: str = "token") -> dict[str, float]:
        """Return all there is to say, by name: bits per byte, or where ids stand for no bytes, bits per ``unit``."""
        figures = {"loss": self.loss, "perplexity": self.perplexity}
        if self.bits_per_byte is not None:
            return {**figures, "bits_per_byte": self.bits_per_byte}
        return {**figures, f"bits_per_{unit}": self.loss / math.log(2)}

    @classmethod
    def of(cls, loss: float, text_nats: float, n_bytes: int) -> "Likelihood":
        """Complete a loss; nats and bytes are those of the text without end-of-text."""
        bits = text_nats / math.log(2) / n_bytes if n_bytes else None
        return cls(loss, math.inf if loss >= 700 else math.exp(loss), bits)
