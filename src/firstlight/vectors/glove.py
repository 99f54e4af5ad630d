"""GloVe (Pennington, Socher and Manning 2014): vectors whose dot products approximate log co-occurrence counts.

First, co-occurrences are counted: a pair of words at distance k, within the window and a document, counts 1/k. Then
AdaGrad minimizes f(x) (w_i·v_j + b_i + c_j - log x)², f(x) = min(1, (x / x_max)^0.75), over shuffled batches of pairs;
both orders of a pair are in the same batch. A word's vector is w + v, as in the paper. Unlike the original, a word that
is in several pairs of a batch takes a single step for all of them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.vectors.corpus_words import CorpusWords
from firstlight.vectors.settings import VectorSettings

_WEIGHT_EXPONENT = 0.75
_CHUNK_PAIRS = 1 << 23
_DEFAULT_LR = 0.05


def train_glove(text: CorpusWords, settings: VectorSettings) -> np.ndarray:
    """Train a vector for each word (V, D) float32; deterministic for a seed on the same machine.

    Raises:
        TokenizerError: no two words co-occur.
    """
    pairs, counts = cooccurrences(text, settings.window)
    if not len(pairs):
        raise TokenizerError("no two words of the text co-occur", where="vectors.window", found=settings.window)
    V, D = len(text.words), settings.width
    generator = torch.Generator().manual_seed(settings.seed)
    # The word and the context vectors; the last column is the bias.
    tables = [(torch.rand(V, D + 1, generator=generator) - 0.5) / (D + 1) for _ in range(2)]
    squares = [torch.ones(V, D + 1) for _ in range(2)]
    first, second = torch.from_numpy(pairs // V), torch.from_numpy(pairs % V)
    logs = torch.from_numpy(np.log(counts)).float()
    weights = torch.from_numpy(np.minimum(1.0, (counts / settings.x_max) ** _WEIGHT_EXPONENT)).float()
    batch_size = _batch_size(len(pairs), V)
    with progress.task("glove", settings.epochs * len(pairs), "pairs") as task:
        for epoch in range(settings.epochs):
            order, total = torch.randperm(len(pairs), generator=generator), 0.0
            for batch in torch.split(order, batch_size):
                # Each pair in both orders, except a word with itself.
                i, j, log, weight = first[batch], second[batch], logs[batch], weights[batch]
                other = i != j
                i, j = torch.cat([i, j[other]]), torch.cat([j, i[other]])
                log, weight = torch.cat([log, log[other]]), torch.cat([weight, weight[other]])
                total += _step(tables, squares, (i, j), log, weight, settings.lr or _DEFAULT_LR)
                task.advance(len(batch), f"epoch {epoch + 1}")
            progress.notice(f"epoch {epoch + 1}: mean weighted squared error {total / (2 * len(pairs)):.4f}")
    return np.asarray((tables[0] + tables[1])[:, :D].numpy(), dtype=np.float32)


def _batch_size(n_pairs: int, n_words: int) -> int:
    """Choose the number of pairs per batch: enough to amortize an update of all vectors, few enough for many steps."""
    return max(1024, min(1 << 16, n_pairs // 64, 4 * n_words))


def _step(
    tables: list[Tensor], squares: list[Tensor], ids: tuple[Tensor, Tensor], log: Tensor, weight: Tensor, lr: float
) -> float:
    """Take one AdaGrad step on a batch of pairs; return the sum of their weighted squared errors."""
    V = len(tables[0])
    w, v = F.embedding(ids[0], tables[0]), F.embedding(ids[1], tables[1])  # (n, D + 1)
    error = (w[:, :-1] * v[:, :-1]).sum(1) + w[:, -1] + v[:, -1] - log
    error_grad = (weight * error)[:, None]
    for index, other in ((0, v), (1, w)):
        grads = torch.cat([error_grad * other[:, :-1], error_grad], 1)
        grad = torch.ops.aten.embedding_dense_backward(grads, ids[index], V, -1, False)
        squares[index].addcmul_(grad, grad)
        tables[index].addcdiv_(grad, squares[index].sqrt(), value=-lr)
    return float((weight * error.square()).sum())


def cooccurrences(text: CorpusWords, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Count co-occurrences of words, each weighted by 1 / distance.

    Args:
        text: the corpus.
        window: the largest distance.

    Returns:
        Pairs as i V + j with i <= j, ascending, and their counts (float64). Co-occurrences of a word with itself count
        twice, as in a symmetric matrix that is filled from both sides.
    """
    V, ids = len(text.words), text.ids.astype(np.int64)
    document = np.zeros(len(ids), dtype=np.int32)
    document[text.starts[text.starts < len(ids)]] = 1
    document = np.cumsum(document)
    keys, counts = np.zeros(0, dtype=np.int64), np.zeros(0)
    chunk = max(1, _CHUNK_PAIRS // window)
    with progress.task("count", len(ids), "words") as task:
        for start in range(0, len(ids), chunk):
            new_keys, new_counts = [keys], [counts]
            for k in range(1, window + 1):
                end = min(start + chunk, len(ids) - k)
                if end <= start:
                    continue
                a, b = ids[start:end], ids[start + k : end + k]
                same = document[start:end] == document[start + k : end + k]
                new_keys.append((np.minimum(a, b) * V + np.maximum(a, b))[same])
                new_counts.append(np.where(a == b, 2.0, 1.0)[same] / k)
            keys, counts = _sum_by_key(np.concatenate(new_keys), np.concatenate(new_counts))
            task.advance(min(chunk, len(ids) - start))
    return keys, counts


def _sum_by_key(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[starts], np.add.reduceat(counts, starts) if len(starts) else counts
