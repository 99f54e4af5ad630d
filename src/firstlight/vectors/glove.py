"""GloVe (Pennington, Socher and Manning 2014): vectors whose products are the logarithms of how often words meet.

Counts first, once: a pair of words that stand k apart, within the window and within a document, counts 1/k. Then
AdaGrad on f(x) (w_i·v_j + b_i + c_j - log x)², f(x) = min(1, (x / x_max)^0.75). The pairs of an epoch are taken in
batches of an order drawn anew; both orders of a pair stand in the same batch. A word's vector is w + v, as the paper
has it. The price of the batches: a word that is in many pairs of one takes one step for all of them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.vectors.corpus_words import CorpusWords
from firstlight.vectors.settings import VectorSettings

_POWER = 0.75
_PAIRS_AT_ONCE = 1 << 23
_LR = 0.05


def train_glove(text: CorpusWords, settings: VectorSettings) -> np.ndarray:
    """Return a vector for each word (V, D) float32; the same seed gives the same ones on the same machine.

    Raises:
        TokenizerError: no two words meet.
    """
    pairs, counts = cooccurrences(text, settings.window)
    if not len(pairs):
        raise TokenizerError("no two words of the text meet", where="vectors.window", found=settings.window)
    V, D = len(text.words), settings.width
    generator = torch.Generator().manual_seed(settings.seed)
    # The last column of each side is its bias.
    sides = [(torch.rand(V, D + 1, generator=generator) - 0.5) / (D + 1) for _ in range(2)]
    squares = [torch.ones(V, D + 1) for _ in range(2)]
    first, second = torch.from_numpy(pairs // V), torch.from_numpy(pairs % V)
    logs = torch.from_numpy(np.log(counts)).float()
    weights = torch.from_numpy(np.minimum(1.0, (counts / settings.x_max) ** _POWER)).float()
    size = _batch(len(pairs), V)
    with progress.task("glove", settings.epochs * len(pairs), "pairs") as task:
        for epoch in range(settings.epochs):
            order, total = torch.randperm(len(pairs), generator=generator), 0.0
            for some in torch.split(order, size):
                # Each pair in both orders, but for a word beside itself, which has one.
                i, j, log, weight = first[some], second[some], logs[some], weights[some]
                other = i != j
                i, j = torch.cat([i, j[other]]), torch.cat([j, i[other]])
                log, weight = torch.cat([log, log[other]]), torch.cat([weight, weight[other]])
                total += _step(sides, squares, (i, j), log, weight, settings.lr or _LR)
                task.advance(len(some), f"epoch {epoch + 1}")
            progress.notice(f"epoch {epoch + 1}: mean weighted squared error {total / (2 * len(pairs)):.4f}")
    return np.asarray((sides[0] + sides[1])[:, :D].numpy(), dtype=np.float32)


def _batch(pairs: int, words: int) -> int:
    """Return pairs of a batch: many enough to be worth a pass over all vectors, few enough for many steps."""
    return max(1024, min(1 << 16, pairs // 64, 4 * words))


def _step(
    sides: list[Tensor], squares: list[Tensor], ids: tuple[Tensor, Tensor], log: Tensor, weight: Tensor, lr: float
) -> float:
    """Take one step of AdaGrad on a batch of pairs; return the sum of their errors."""
    V = len(sides[0])
    w, v = F.embedding(ids[0], sides[0]), F.embedding(ids[1], sides[1])  # (n, D + 1)
    error = (w[:, :-1] * v[:, :-1]).sum(1) + w[:, -1] + v[:, -1] - log
    slope = (weight * error)[:, None]
    for number, other in ((0, v), (1, w)):
        grads = torch.cat([slope * other[:, :-1], slope], 1)
        whole = torch.ops.aten.embedding_dense_backward(grads, ids[number], V, -1, False)
        squares[number].addcmul_(whole, whole)
        sides[number].addcdiv_(whole, squares[number].sqrt(), value=-lr)
    return float((weight * error.square()).sum())


def cooccurrences(text: CorpusWords, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Count how often words meet.

    Args:
        text: the corpus.
        window: how far apart two words may stand.

    Returns:
        Pairs as i V + j with i <= j, ascending, and the sum of 1/distance of each (float64). A word's meetings with
        itself count twice, as in a matrix that is filled from both sides.
    """
    V, ids = len(text.words), text.ids.astype(np.int64)
    document = np.zeros(len(ids), dtype=np.int32)
    document[text.starts[text.starts < len(ids)]] = 1
    document = np.cumsum(document)
    keys, sums = np.zeros(0, dtype=np.int64), np.zeros(0)
    stretch = max(1, _PAIRS_AT_ONCE // window)
    with progress.task("count", len(ids), "words") as task:
        for at in range(0, len(ids), stretch):
            found, distances = [keys], [sums]
            for k in range(1, window + 1):
                end = min(at + stretch, len(ids) - k)
                if end <= at:
                    continue
                a, b = ids[at:end], ids[at + k : end + k]
                same = document[at:end] == document[at + k : end + k]
                found.append((np.minimum(a, b) * V + np.maximum(a, b))[same])
                distances.append(np.where(a == b, 2.0, 1.0)[same] / k)
            keys, sums = _joined(np.concatenate(found), np.concatenate(distances))
            task.advance(min(stretch, len(ids) - at))
    return keys, sums


def _joined(keys: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    keys, sums = keys[order], sums[order]
    begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[begins], np.add.reduceat(sums, begins) if len(begins) else sums
