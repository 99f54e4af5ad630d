"""Baselines without context: uniform, unigram, and for images the frequencies at each position."""

import math

import numpy as np

from firstlight.evaluation.likelihood import Likelihood

_CHUNK = 1 << 24  # ids in memory at once


def count_ids(ids: np.ndarray) -> np.ndarray:
    """Count how often each id occurs: (up to V,) int64. A memory-mapped file is read in chunks."""
    counts = np.zeros(0, dtype=np.int64)
    for first in range(0, len(ids), _CHUNK):
        chunk = np.bincount(ids[first : first + _CHUNK])
        size = max(len(counts), len(chunk))
        counts = np.pad(counts, (0, size - len(counts))) + np.pad(chunk, (0, size - len(chunk)))
    return counts


def baseline_likelihoods(
    vocab_size: int,
    train_counts: np.ndarray | None,
    target_counts: np.ndarray,
    byte_lengths: np.ndarray | None,
    *,
    more_nats: np.ndarray | None = None,
    characters: np.ndarray | None = None,
) -> dict[str, Likelihood]:
    """Compute the likelihood of a text under two models without context.

    ``uniform`` gives every id the same probability; ``unigram`` its frequency in the training text, with one added to
    every count (Laplace smoothing), so that no id has probability 0.

    Args:
        vocab_size: V.
        train_counts: how often each id occurs in the training text (up to V,), or None where that is unknown.
        target_counts: how often each id is a target in the text (up to V,).
        byte_lengths: bytes of text of each id, 0 for special tokens; None where ids do not stand for bytes.
        more_nats: what each id costs in bits per byte in addition to its loss (V,), as the unknown token does.
        characters: of text of each id (V,); None where they are not known.
    """
    if not target_counts.sum():
        return {}
    lengths = np.zeros(len(target_counts)) if byte_lengths is None else byte_lengths[: len(target_counts)]
    text_counts = target_counts[: len(lengths)] * (lengths > 0)
    n_bytes = round(float(target_counts[: len(lengths)] @ lengths))
    n_characters = 0 if characters is None else round(float(target_counts @ characters[: len(target_counts)]))
    more = 0.0 if more_nats is None else float(text_counts @ more_nats[: len(text_counts)])
    found = {}
    for name, nats in _nats_per_id(vocab_size, train_counts).items():
        loss = float(target_counts @ nats[: len(target_counts)] / target_counts.sum())
        text_nats = float(text_counts @ nats[: len(text_counts)]) + more
        found[name] = Likelihood.from_loss(loss, text_nats, n_bytes, n_characters)
    return found


def position_baseline(train: np.ndarray, valid: np.ndarray, n_values: int) -> Likelihood:
    """Compute the likelihood of rows under the frequencies of each value at each position, with Laplace smoothing.

    For images: pixels that are independent of each other.

    Args:
        train: (N, P) values, which are counted.
        valid: (M, P) values, which are scored.
        n_values: values are below this.
    """
    P = train.shape[1]
    positions = np.arange(P)
    counts, total = np.ones((P, n_values)), 0.0
    for chunk in np.array_split(train, -(-train.size // _CHUNK)):
        flat = positions * n_values + chunk.astype(np.int64)  # (n, P)
        counts += np.bincount(flat.reshape(-1), minlength=P * n_values).reshape(P, n_values)
    nats = np.log(counts.sum(1, keepdims=True)) - np.log(counts)
    for chunk in np.array_split(valid, -(-valid.size // _CHUNK)):
        total += float(nats[positions, chunk.astype(np.int64)].sum())
    return Likelihood.from_loss(total / valid.size, 0.0, 0)


def _nats_per_id(vocab_size: int, train_counts: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return -log P of each id (V,) under each baseline."""
    found = {"uniform": np.full(vocab_size, math.log(vocab_size))}
    if train_counts is not None:
        counts = np.ones(vocab_size)
        counts[: len(train_counts)] += train_counts
        found["unigram"] = math.log(counts.sum()) - np.log(counts)
    return found
