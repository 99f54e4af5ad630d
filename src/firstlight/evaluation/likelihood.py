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
        bits_per_character: likewise; None where the characters of the text are not known either.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    bits_per_character: float | None = None

    def metrics(self, unit: str = "token") -> dict[str, float]:
        """Return all metrics by name, with bits per byte, or per ``unit`` where ids do not stand for bytes."""
        metrics = {"loss": self.loss, "perplexity": self.perplexity}
        if self.bits_per_byte is not None:
            characters = self.bits_per_character
            more = {} if characters is None else {"bits_per_character": characters}
            return {**metrics, "bits_per_byte": self.bits_per_byte, **more}
        # Text whose bytes are not known has bits per token.
        return {**metrics, f"bits_per_{'token' if unit == 'byte' else unit}": self.loss / math.log(2)}

    @classmethod
    def from_loss(cls, loss: float, text_nats: float, n_bytes: int, n_characters: int = 0) -> "Likelihood":
        """Compute the other metrics from a loss, and from nats, bytes and characters of the text without end-of-text.

        Characters are 0 where they are not known.
        """
        bits = text_nats / math.log(2)
        per_byte, per_character = (bits / n if n else None for n in (n_bytes, n_characters))
        return cls(loss, math.inf if loss >= _MAX_EXPONENT else math.exp(loss), per_byte, per_character)
