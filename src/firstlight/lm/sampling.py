"""From logits to the next token: temperature, top-k, top-p, min-p, each row with random numbers of its own."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from firstlight.config import Settings
from firstlight.errors import CheckpointError


class GenerateSettings(Settings):
    """Settings of generation."""

    max_new_tokens: int = Field(200, ge=1, description="tokens to write at most")
    temperature: float = Field(1.0, ge=0, description="logits are divided by it; 0: always the likeliest token")
    top_k: int = Field(0, ge=0, description="choose among this many likeliest tokens; 0 = all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="choose among the likeliest tokens that have this probability together"
    )
    min_p: float = Field(
        0.0, ge=0, le=1, description="leave out tokens below this share of the likeliest one's probability"
    )
    seed: int = Field(1337, ge=0, lt=2**63, description="the same seed writes the same text")
    num_samples: int = Field(1, ge=1, description="texts for each prompt")
    stop: list[str] = Field([], description="end where one of these is written")


def sample_tokens(
    logits: Float[Tensor, "B V"], settings: GenerateSettings, uniform: Float[Tensor, " B"] | None
) -> Int[Tensor, " B"]:
    """Return the next token of each row.

    Filters apply in the order top-k, top-p, min-p to the probabilities at the temperature asked for; among equally
    likely tokens the lower id comes first. The token is found by inverting the cumulative distribution, in the order
    of ids, at ``uniform``, so that a row depends on its own number only.

    Args:
        logits: of the next token; minus infinity bars a token.
        settings: temperature and filters.
        uniform: numbers in [0, 1), one a row; None or temperature 0 take the likeliest token.

    Raises:
        CheckpointError: logits are not finite, so that there is nothing to choose by.
    """
    if logits.device.type == "mps":  # it has no float64
        logits = logits.cpu()
    top, likeliest = logits.max(-1, keepdim=True)
    if not top.isfinite().all():
        raise CheckpointError(
            "the model's logits are not finite",
            fix="Its weights are damaged, or its training diverged: take an earlier checkpoint.",
        )
    if settings.temperature == 0 or uniform is None:
        return likeliest.squeeze(-1)
    x = (logits.double() - top) / settings.temperature
    if 0 < settings.top_k < x.shape[-1]:
        least = x.topk(settings.top_k).values[:, -1:]
        x = x.masked_fill(~_first(x, least, settings.top_k), -torch.inf)
    p = x.exp()  # relative to the likeliest token's, which is 1
    if settings.top_p < 1:
        p = _nucleus(p, settings.top_p)
    if settings.min_p > 0:
        p = p.masked_fill(p < settings.min_p, 0)
    ladder = p.cumsum(-1)
    total = ladder[:, -1:]
    # Below 1 is at most 1 - 2^-53, so the product is rounded to less than the total: some token makes that step.
    height = uniform.to(total)[:, None] * total
    return torch.searchsorted(ladder, height, right=True).squeeze(-1)


def _nucleus(p: Float[Tensor, "B V"], share: float) -> Float[Tensor, "B V"]:
    """Keep the likeliest tokens: each before which less than ``share`` of the whole lies, so the likeliest always."""
    V = p.shape[-1]
    wanted = share * p.sum(-1, keepdim=True)
    n = min(V, 128)
    while True:  # few tokens are enough nearly always, and sorting all is slow
        likely = p.topk(n).values
        before = likely.cumsum(-1) - likely  # (B, n)
        if n == V or bool((before[:, -1:] >= wanted).all()):
            break
        n = min(V, 16 * n)
    count = (before < wanted).sum(-1, keepdim=True)
    return p.masked_fill(~_first(p, likely.gather(-1, count - 1), count), 0)


def _first(x: Float[Tensor, "B V"], least: Float[Tensor, "B 1"], count: int | Tensor) -> Bool[Tensor, "B V"]:
    """Mark the ``count`` largest of each row, of which ``least`` is the last; of equal ones those that come first."""
    found = x >= least
    if bool((found.sum(-1, keepdim=True) > count).any()):
        equal, above = x == least, x > least
        found = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    return found


class RowRng:
    """Random numbers for rows: row i draws from a stream that depends on the seed and i alone."""

    def __init__(self, seed: int, rows: Sequence[int]) -> None:
        self._streams = {row: np.random.Generator(np.random.PCG64([seed, row])) for row in rows}

    def roll(self, rows: Sequence[int]) -> Float[Tensor, " B"]:
        """Return the next number of each of these rows, in [0, 1)."""
        return torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64)
