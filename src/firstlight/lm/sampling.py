"""Sampling of the next token from logits: temperature, top-k, top-p, min-p, with a random stream for each row."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from firstlight.config import Settings
from firstlight.errors import CheckpointError


class GenerateSettings(Settings):
    """Settings of generation."""

    max_new_tokens: int = Field(200, ge=1, description="tokens to generate at most")
    temperature: float = Field(1.0, ge=0, description="divisor of the logits; 0: greedy decoding")
    top_k: int = Field(0, ge=0, description="sample from this many most likely tokens; 0 = all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="sample from the most likely tokens that have this probability together"
    )
    min_p: float = Field(
        0.0, ge=0, le=1, description="leave out tokens below this fraction of the most likely one's probability"
    )
    seed: int = Field(1337, ge=0, lt=2**63, description="the same seed generates the same text")
    num_samples: int = Field(1, ge=1, description="samples for each prompt")
    stop: list[str] = Field([], description="stop where one of these strings is generated")
    prompt_lookup_num_tokens: int = Field(
        0,
        ge=0,
        le=64,
        description="tokens to take from an earlier occurrence of the last ones and check at once; 0: off",
    )

    def unused_settings(self) -> dict[str, str]:
        """Return the filters of sampling, which greedy decoding does not apply."""
        if self.temperature > 0:
            return {}
        on = [
            name for name in ("top_k", "top_p", "min_p") if getattr(self, name) != type(self).model_fields[name].default
        ]
        return dict.fromkeys(on, "applies to sampling, but a temperature of 0 is greedy decoding")


def sample_tokens(
    logits: Float[Tensor, "B V"], settings: GenerateSettings, uniform: Float[Tensor, " B"] | None
) -> Int[Tensor, " B"]:
    """Sample the next token of each row.

    Filters apply in the order top-k, top-p, min-p to the probabilities at the given temperature; among equally likely
    tokens the lower id comes first. The token is found by inverting the cumulative distribution, in the order of ids,
    at ``uniform``, so that a row depends on its own random number only.

    Args:
        logits: of the next token; minus infinity excludes a token.
        settings: temperature and filters.
        uniform: random numbers in [0, 1), one a row; None or temperature 0: greedy decoding.

    Raises:
        CheckpointError: the logits are not finite.
    """
    if logits.device.type == "mps":  # it has no float64
        logits = logits.cpu()
    top, greedy = logits.max(-1, keepdim=True)
    if not top.isfinite().all():
        raise CheckpointError(
            "the model's logits are not finite",
            fix="Its weights are damaged, or its training diverged: use an earlier checkpoint.",
        )
    if settings.temperature == 0 or uniform is None:
        return greedy.squeeze(-1)
    scores = (logits.double() - top) / settings.temperature
    if 0 < settings.top_k < scores.shape[-1]:
        scores = _top_k(scores, settings.top_k)
    p = scores.exp()  # relative to the most likely token's, which is 1
    if settings.top_p < 1:
        p = _top_p(p, settings.top_p)
    if settings.min_p > 0:
        p = p.masked_fill(p < settings.min_p, 0)
    cumulative = p.cumsum(-1)
    total = cumulative[:, -1:]
    # Numbers below 1 are at most 1 - 2^-53, so the product rounds to less than the total: some token always matches.
    threshold = uniform.to(total)[:, None] * total
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)


def _top_k(scores: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    smallest = scores.topk(k).values[:, -1:]
    return scores.masked_fill(~_largest(scores, smallest, k), -torch.inf)


def _top_p(p: Float[Tensor, "B V"], fraction: float) -> Float[Tensor, "B V"]:
    """Keep the most likely tokens: each that follows less than ``fraction`` of the total, so always the first."""
    V = p.shape[-1]
    target = fraction * p.sum(-1, keepdim=True)
    n = min(V, 128)
    while True:  # few tokens are nearly always enough, and sorting all is slow
        largest = p.topk(n).values
        before = largest.cumsum(-1) - largest  # (B, n)
        if n == V or bool((before[:, -1:] >= target).all()):
            break
        n = min(V, 16 * n)
    count = (before < target).sum(-1, keepdim=True)
    return p.masked_fill(~_largest(p, largest.gather(-1, count - 1), count), 0)


def _largest(x: Float[Tensor, "B V"], smallest: Float[Tensor, "B 1"], count: int | Tensor) -> Bool[Tensor, "B V"]:
    """Mark the ``count`` largest of each row, down to ``smallest``; of equal ones those with the lower index."""
    kept = x >= smallest
    if bool((kept.sum(-1, keepdim=True) > count).any()):
        equal, above = x == smallest, x > smallest
        kept = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    return kept


def random_numbers(seed: int, stream: int) -> np.random.Generator:
    """Return the random numbers of a request: the n-th one belongs to its n-th token."""
    return np.random.Generator(np.random.PCG64([seed, stream]))


def token_logprob(logits: Float[Tensor, " V"], token: int, temperature: float) -> float:
    """Return the log-probability of a token at a temperature, 1 where that is 0, without other filters, in nats."""
    scores = logits.to("cpu", torch.float64) / (temperature or 1.0)
    return float(scores[token] - scores.logsumexp(0))
