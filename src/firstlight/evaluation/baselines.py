"""What a model without context would score."""

import math

import numpy as np

from firstlight.evaluation.likelihood import Likelihood

_CHUNK = 1 << 24


def count(ids: np.ndarray) -> np.ndarray:
    """Return how often each id occurs (up to V,) int64, reading a mapped file piece by piece."""
    counts = np.zeros(0, dtype=np.int64)
    for first in range(0, len(ids), _CHUNK):
        part = np.bincount(ids[first : first + _CHUNK])
        size = max(len(counts), len(part))
        counts = np.pad(counts, (0, size - len(counts))) + np.pad(part, (0, size - len(part)))
    return counts


def baselines(vocab_size: int, train_counts: np.ndarray | None, seen: np.ndarray) -> dict[str, float]:
    """Return nats a token of two models that know no context.

    Uniform gives every id the same probability; unigram gives each its share of the training text, with one
    added to every count so that no id is impossible.

    Args:
        vocab_size: V.
        train_counts: how often each id occurs in the training text (up to V,), or None where that is not known.
        seen: how often each id is a target (up to V,).
    """
    return {name: _mean(nats, seen) for name, nats in _nats(vocab_size, train_counts).items() if seen.sum()}


def baseline_likelihoods(
    vocab_size: int, train_counts: np.ndarray | None, seen: np.ndarray, byte_lengths: np.ndarray | None
) -> dict[str, Likelihood]:
    """Return the likelihoods of a text under the models of ``baselines``.

    Args:
        vocab_size: V.
        train_counts: how often each id occurs in the training text (up to V,), or None where that is not known.
        seen: how often each id is a target (up to V,).
        byte_lengths: bytes of text that each id stands for, 0 for special tokens; None where ids stand for no bytes.
    """
    found = {}
    for name, nats in _nats(vocab_size, train_counts).items():
        lengths = np.zeros(len(seen)) if byte_lengths is None else byte_lengths[: len(seen)]
        text = seen[: len(lengths)] * (lengths > 0)
        found[name] = Likelihood.of(
            _mean(nats, seen), float(text @ nats[: len(text)]), int(seen[: len(lengths)] @ lengths)
        )
    return found


def position_baseline(train: np.ndarray, valid: np.ndarray, n_values: int) -> Likelihood:
    """Return the likelihood of rows under a model that knows how frequent each value is at each place, and no more.

    One is added to every count, so that no value is impossible. For images: pixels that know nothing of each other.

    Args:
        train: (N, P) values, which are counted.
        valid: (M, P) values, which are scored.
        n_values: values are below this.
    """
    P = train.shape[1]
    places = np.arange(P)
    counts, total = np.ones((P, n_values)), 0.0
    for part in np.array_split(train, -(-train.size // _CHUNK)):
        flat = places * n_values + part.astype(np.int64)  # (n, P)
        counts += np.bincount(flat.reshape(-1), minlength=P * n_values).reshape(P, n_values)
    nats = np.log(counts.sum(1, keepdims=True)) - np.log(counts)
    for part in np.array_split(valid, -(-valid.size // _CHUNK)):
        total += float(nats[places, part.astype(np.int64)].sum())
    return Likelihood.of(total / valid.size, 0.0, 0)


def _nats(vocab_size: int, train_counts: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return -log P of each id (V,) under each baseline."""
    found = {"uniform": np.full(vocab_size, math.log(vocab_size))}
    if train_counts is not None:
        counts = np.ones(vocab_size)
        counts[: len(train_counts)] += train_counts
        found["unigram"] = math.log(counts.sum()) - np.log(counts)
    return found


def _mean(nats: np.ndarray, seen: np.ndarray) -> float:
    return float(seen @ nats[: len(seen)] / seen.sum())
