"""From logits to the next token: temperature, top-k, top-p, min-p, each row with random numbers of its own."""

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from firstlight.config import Settings


class GenerateSettings(Settings):
    """Settings of generation."""

    max_new_tokens: int = Field(200, ge=1, description="tokens to write at most")
    temperature: float = Field(1.0, ge=0, description="logits are divided by it; 0: always the likeliest token")
    top_k: int = Field(0, ge=0, description="choose among this many likeliest tokens; 0 = all")
    top_p: float = Field(1.0, gt=0, le=1, description="choose among the likeliest tokens that have this probability together")
    min_p: float = Field(0.0, ge=0, le=1, description="leave out tokens below this share of the likeliest one's probability")
    seed: int = Field(1337, ge=0, lt=2**63, description="the same seed writes the same text")
    num_samples: int = Field(1, ge=1, description="texts for each prompt")
    stop: list[str] = Field([], description="end where one of these is written")


def choose(
    logits: Float[Tensor, "B V"], settings: GenerateSettings, uniform: Float[Tensor, " B"] | None
) -> Int[Tensor, " B"]:
    """Return the next token of each row.

    Filters apply in the order top-k, top-p, min-p to the probabilities at the temperature asked for. The token is
    found by inverting the cumulative distribution at ``uniform``, so that a row depends on its own number only.

    Args:
        logits: of the next token.
        settings: temperature and filters.
        uniform: numbers in [0, 1), one a row; None or temperature 0 take the likeliest token.
    """
    if settings.temperature == 0 or uniform is None:
        return logits.argmax(-1)
    V = logits.shape[-1]
    k = min(settings.top_k or V, V)
    kept, order = torch.topk(logits.float() / settings.temperature, k) if k < V else torch.sort(
        logits.float() / settings.temperature, descending=True, stable=True
    )
    p = kept.softmax(-1)  # (B, k), likeliest first
    if settings.top_p < 1:
        # A token stays while those before it have less than top_p together: the likeliest always does.
        p = p * (p.cumsum(-1) - p < settings.top_p)
    if settings.min_p > 0:
        p = p * (p >= settings.min_p * p[:, :1])
    ladder = p.cumsum(-1)
    at = torch.searchsorted(ladder, (uniform.to(p) * ladder[:, -1])[:, None], right=True)  # (B, 1)
    # Rounding may put the number at the very end, behind the last token that was kept.
    last = (p > 0).sum(-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(at, last)).squeeze(1)


class Dice:
    """Random numbers for rows: row i draws from a stream that depends on the seed and i alone."""

    def __init__(self, seed: int, rows: range) -> None:
        self._generators = [torch.Generator().manual_seed((seed * 1_000_003 + row) % 2**63) for row in rows]

    def roll(self, device: torch.device) -> Float[Tensor, " B"]:
        """Return the next number of each row, in [0, 1)."""
        numbers = [torch.rand((), generator=g, dtype=torch.float64) for g in self._generators]
        # Rounding a float64 just below 1 to fp32 would give 1.
        return torch.stack(numbers).float().clamp_max(1 - 2**-24).to(device)
