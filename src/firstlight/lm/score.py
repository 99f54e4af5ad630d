"""How likely a text is, by windows that overlap or not."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from firstlight import parallel
from firstlight.model import GPT


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a continuation is.

    Attributes:
        logprob: sum of log P of its tokens, in nats.
        n_tokens: how many it has.
        is_greedy: each of its tokens is the likeliest one at its place.
    """

    logprob: float
    n_tokens: int
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class WindowNats:
    """What one window scored: -log P of targets ``first`` to ``first + len(nats)`` of the text."""

    first: int
    nats: np.ndarray


@torch.no_grad()
def score_windows(
    model: GPT, ids: np.ndarray, *, stride: int, place: parallel.Place, rows: int = 8
) -> Iterator[WindowNats]:
    """Yield -log P of ids[1:], each once: a window moves on by ``stride`` and scores what is new in it.

    With ``stride`` equal to the block size windows are disjoint and cheapest; a smaller one gives every token
    at least ``block_size - stride`` tokens of context, at block_size / stride times the cost.

    Args:
        model: in evaluation mode.
        ids: the text, 1-D; the first one is context only.
        stride: 1 to the block size.
        place: precision.
        rows: windows of one forward pass.
    """
    T = model.config.block_size
    assert 1 <= stride <= T
    device = model.embed.weight.device
    n = len(ids) - 1
    ends = [min(T, n)] if n > 0 else []
    while ends and ends[-1] < n:
        ends.append(min(ends[-1] + stride, n))
    begins = [max(0, end - T) for end in ends]
    firsts = [0, *ends[:-1]]
    at = 0
    while at < len(ends):
        # Only the first window may be shorter than T, when the text is.
        part = slice(at, at + rows)
        inputs, targets = (
            torch.from_numpy(np.stack([ids[b + o : e + o] for b, e in zip(begins[part], ends[part], strict=True)]).astype(np.int64))
            for o in (0, 1)
        )
        with parallel.autocast(place):
            nats: Tensor = model.token_nats(inputs.to(device), targets.to(device)).float().cpu()
        for row, first, begin, end in zip(nats, firsts[part], begins[part], ends[part], strict=True):
            yield WindowNats(first, row[first - begin : end - begin].numpy())
        at += rows
