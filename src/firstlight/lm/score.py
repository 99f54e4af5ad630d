"""Log-likelihoods: of continuations given their contexts, and of long texts in windows, overlapping or not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from firstlight import parallel
from firstlight.model import GPT, eval_mode

_TOKENS = 8192  # of one forward pass
_MAX_LOGITS = 1 << 22  # numbers at once


@dataclass(frozen=True, slots=True)
class Score:
    """The log-likelihood of a continuation.

    Attributes:
        logprob: sum of the log-probabilities of its tokens, in nats.
        n_tokens: its number of tokens.
        is_greedy: whether each of its tokens is the most likely one.
        unk_tokens: unknown tokens of its text, and characters of it that have no token.
    """

    logprob: float
    n_tokens: int
    is_greedy: bool
    unk_tokens: int = 0


@dataclass(frozen=True, slots=True)
class WindowNLL:
    """The negative log-likelihoods that one window adds: those of targets ``start`` to ``start + len(nll)``."""

    start: int
    nll: np.ndarray


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Ids, of which the last ``n`` are scored; ``pair`` is the index of their pair."""

    pair: int
    ids: Sequence[int]
    n: int


@torch.no_grad()
def score_ids(
    model: GPT, pairs: Sequence[tuple[list[int], list[int]]], device_context: parallel.DeviceContext
) -> list[Score]:
    """Score each continuation given its context, which is not empty.

    A context that is too long loses its start. A continuation longer than the block size is scored in chunks, each
    with at least half a block of context.
    """
    chunks = [chunk for i, (before, after) in enumerate(pairs) for chunk in _chunks(model, i, before, after)]
    # Batches have rows of similar length; padding at the right is never attended to.
    chunks.sort(key=lambda chunk: len(chunk.ids))
    sums, greedy = np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool)
    while chunks:
        rows = max(1, _TOKENS // len(chunks[-1].ids))
        batch, chunks = chunks[-rows:], chunks[:-rows]
        logprobs, is_greedy = _score_batch(model, batch, device_context)
        index = np.repeat([chunk.pair for chunk in batch], [chunk.n for chunk in batch])
        np.add.at(sums, index, logprobs)
        np.logical_and.at(greedy, index, is_greedy)
    return [
        Score(float(total), len(after), bool(is_greedy))
        for total, (_, after), is_greedy in zip(sums, pairs, greedy, strict=True)
    ]


def _chunks(model: GPT, pair: int, before: list[int], after: list[int]) -> Iterator[_Chunk]:
    T = model.config.block_size
    step = len(after) if len(after) <= T else max(1, T // 2)
    ids = before + after
    for start in range(0, len(after), max(1, step)):
        n = min(step, len(after) - start)
        end = len(before) + start + n
        yield _Chunk(pair, ids[max(0, end - T - 1) : end], n)


def _score_batch(
    model: GPT, batch: Sequence[_Chunk], device_context: parallel.DeviceContext
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the log-probabilities of the targets of all chunks, concatenated, and whether each is the most likely."""
    device = next(model.parameters()).device
    longest = max(len(chunk.ids) for chunk in batch)
    ids = torch.tensor([[*chunk.ids, *[0] * (longest - len(chunk.ids))] for chunk in batch], device=device)
    rows = torch.tensor([row for row, chunk in enumerate(batch) for _ in range(chunk.n)], device=device)
    columns = [i for chunk in batch for i in range(len(chunk.ids) - chunk.n, len(chunk.ids))]
    targets = torch.tensor(columns, device=device)
    with eval_mode(model), parallel.autocast(device_context):
        hidden = model.hidden(ids[:, :-1])[rows, targets - 1]  # (N, C)
        size = max(1, _MAX_LOGITS // (model.config.vocab_size or 1))
        parts = zip(torch.split(hidden, size), torch.split(ids[rows, targets], size), strict=True)
        scored = [_score_logits(model.logits(h).float(), wanted) for h, wanted in parts]
    logprobs, is_greedy = (torch.cat(found).cpu().numpy() for found in zip(*scored, strict=True))
    return logprobs.astype(np.float64), is_greedy


def _score_logits(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
    nll = F.cross_entropy(logits, targets, reduction="none")
    return -nll, logits.argmax(-1) == targets


@torch.no_grad()
def score_windows(
    model: GPT, ids: np.ndarray, *, stride: int, device_context: parallel.DeviceContext, rows: int | None = None
) -> Iterator[WindowNLL]:
    """Yield the negative log-likelihoods of ids[1:], each once, in windows that advance by ``stride``.

    With ``stride`` equal to the block size windows are disjoint and cheapest, as for the validation loss; a smaller
    one gives every token after the first window at least ``block_size - stride`` tokens of context, at
    block_size / stride times the cost.

    Args:
        model: in any mode, which is restored.
        ids: the text, 1-D; the first one is context only.
        stride: 1 to the block size.
        device_context: precision.
        rows: windows of one forward pass; None: as many as suit the block size.
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
        starts = np.arange(first, min(first + rows, n_windows)) * stride
        # Beyond the end is padding, which no earlier position attends to.
        index = np.minimum(starts[:, None] + np.arange(min(T, n - int(starts[0])) + 1), n)
        block = torch.from_numpy(np.asarray(ids[index], dtype=np.int64)).to(device)
        with eval_mode(model), parallel.autocast(device_context):
            nll = model.token_nll(block[:, :-1], block[:, 1:]).float().cpu().numpy()
        for start, row in zip(starts.tolist(), nll, strict=True):
            new = 0 if start == 0 else T - stride
            yield WindowNLL(start + new, row[new : min(T, n - start)])
