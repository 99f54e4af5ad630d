"""The loss at each position of a window: how much a model gains from what precedes a token."""

from typing import Any

import numpy as np

_MAX_BINS = 48


def loss_by_position(nats: np.ndarray, targets: np.ndarray) -> list[dict[str, Any]]:
    """Average the losses at the positions of a window, in bins that grow with the position.

    Args:
        nats: sum of the losses at each position (T,).
        targets: number of targets at each position (T,).

    Returns:
        Bins without gaps, each with its ``first`` and ``last`` position counted from 1, the mean ``loss`` in nats, and
        ``n``, the number of targets. Position 1 has one token of context. Bins without a target are left out.
    """
    T = len(nats)
    starts = np.unique(np.floor(np.geomspace(1, T + 1, _MAX_BINS + 1)).astype(np.int64))  # 1 … T + 1
    found = []
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        n = float(targets[first - 1 : end - 1].sum())
        if n:
            loss = float(nats[first - 1 : end - 1].sum()) / n
            found.append({"first": first, "last": end - 1, "loss": loss, "n": round(n)})
    return found
