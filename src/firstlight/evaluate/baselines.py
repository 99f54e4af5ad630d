"""What a model without context would score."""

import math

import numpy as np


def baselines(vocab_size: int, train_counts: np.ndarray | None, seen: np.ndarray) -> dict[str, float]:
    """Return nats a token of two models that know no context.

    Uniform gives every id the same probability; unigram gives each its share of the training text, with one
    added to every count so that no id is impossible.

    Args:
        vocab_size: V.
        train_counts: how often each id occurs in the training text (up to V,), or None where that is not known.
        seen: how often each id is a target (up to V,).
    """
    found = {"uniform": math.log(vocab_size)}
    if train_counts is not None and seen.sum():
        counts = np.ones(vocab_size)
        counts[: len(train_counts)] += train_counts
        nats = math.log(counts.sum()) - np.log(counts)
        found["unigram"] = float(seen @ nats[: len(seen)] / seen.sum())
    return found
