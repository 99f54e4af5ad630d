"""How likely a text is: continuations after their contexts, and long texts by windows that overlap or not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from firstlight import parallel
from firstlight.lm.forward import evaluating
from firstlight.model import GPT

_TOKENS = 8192  # of one forward pass
_NUMBERS = 1 << 22  # logits held at once


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
class WindowNLL:
    """What one window scored: -log P of targets ``first`` to ``first + len(nats)`` of the text."""

    first: int
    nats: np.ndarray


@dataclass(frozen=True, slots=True)
class _Part:
    """The last ``n`` of some ids are scored, for the pair ``number``."""

    number: int
    ids: Sequence[int]
    n: int


@torch.no_grad()
def score_ids(
    model: GPT, pairs: Sequence[tuple[list[int], list[int]]], device_context: parallel.DeviceContext
) -> list[Score]:
    """Return how likely each continuation is after its context, which is not empty.

    Of a context that is too long for the model the beginning is left out. A continuation that is longer than the
    model sees is scored piece by piece, each piece with at least half a block before it.
    """
    parts = [part for i, (before, after) in enumerate(pairs) for part in _parts(model, i, before, after)]
    # Rows of like lengths stand together; what is padded at the right is never seen from the left.
    parts.sort(key=lambda part: len(part.ids))
    sums, greedy = np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool)
    while parts:
        rows = max(1, _TOKENS // len(parts[-1].ids))
        batch, parts = parts[-rows:], parts[:-rows]
        logprobs, likeliest = _score_parts(model, batch, device_context)
        numbers = np.repeat([part.number for part in batch], [part.n for part in batch])
        np.add.at(sums, numbers, logprobs)
        np.logical_and.at(greedy, numbers, likeliest)
    return [
        Score(float(total), len(after), bool(is_greedy))
        for total, (_, after), is_greedy in zip(sums, pairs, greedy, strict=True)
    ]


def _parts(model: GPT, number: int, before: list[int], after: list[int]) -> Iterator[_Part]:
    T = model.config.block_size
    step = len(after) if len(after) <= T else max(1, T // 2)
    ids = before + after
    for first in range(0, len(after), max(1, step)):
        n = min(step, len(after) - first)
        end = len(before) + first + n
        yield _Part(number, ids[max(0, end - T - 1) : end], n)


def _score_parts(
    model: GPT, parts: Sequence[_Part], device_context: parallel.DeviceContext
) -> tuple[np.ndarray, np.ndarray]:
    """Return log P of the targets of all parts, end to end, and whether each was the likeliest token."""
    device = next(model.parameters()).device
    longest = max(len(part.ids) for part in parts)
    ids = torch.tensor([[*part.ids, *[0] * (longest - len(part.ids))] for part in parts], device=device)
    rows = torch.tensor([row for row, part in enumerate(parts) for _ in range(part.n)], device=device)
    at = torch.tensor([i for part in parts for i in range(len(part.ids) - part.n, len(part.ids))], device=device)
    with evaluating(model), parallel.autocast(device_context):
        hidden = model.hidden(ids[:, :-1])[rows, at - 1]  # (N, C)
        size = max(1, _NUMBERS // (model.config.vocab_size or 1))
        chunks = zip(torch.split(hidden, size), torch.split(ids[rows, at], size), strict=True)
        found = [_judged(model.logits(h).float(), targets) for h, targets in chunks]
    logprobs, likeliest = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return logprobs.astype(np.float64), likeliest


def _judged(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
    nats = F.cross_entropy(logits, targets, reduction="none")
    return -nats, logits.argmax(-1) == targets


@torch.no_grad()
def score_windows(
    model: GPT, ids: np.ndarray, *, stride: int, device_context: parallel.DeviceContext, rows: int | None = None
) -> Iterator[WindowNLL]:
    """Yield -log P of ids[1:], each once: a window moves on by ``stride`` and scores what is new in it.

    With ``stride`` equal to the block size windows are disjoint and cheapest, as the valid loss has them; a smaller
    one gives every token but the first ones at least ``block_size - stride`` tokens of context before it, at
    block_size / stride times the cost.

    Args:
        model: in any mode; left in the mode it was in.
        ids: the text, 1-D; the first one is context only.
        stride: 1 to the block size.
        device_context: precision.
        rows: windows of one forward pass, or None for as many as suit the block size.
    """
    T = model.config.block_size
    assert 1 <= stride <= T
    n = len(ids) - 1
    if n < 1:
        return
    n_windows = 1 + max(0, -(-(n - T) // stride))
    rows = rows or max(1, _TOKENS // T)
    device = next(model.parameters()).device
    for first in range(0, n_windows, rows):
        begins = np.arange(first, min(first + rows, n_windows)) * stride
        # What stands after the end is padding, which no position before it sees.
        at = np.minimum(begins[:, None] + np.arange(min(T, n - int(begins[0])) + 1), n)
        block = torch.from_numpy(np.asarray(ids[at], dtype=np.int64)).to(device)
        with evaluating(model), parallel.autocast(device_context):
            nats = model.token_nll(block[:, :-1], block[:, 1:]).float().cpu().numpy()
        for begin, row in zip(begins.tolist(), nats, strict=True):
            new = 0 if begin == 0 else T - stride
            yield WindowNLL(begin + new, row[new : min(T, n - begin)])
