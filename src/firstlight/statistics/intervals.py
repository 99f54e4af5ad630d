"""Bootstrap intervals (Efron 1979)."""

import numpy as np


def ratio_interval(
    sums: np.ndarray, counts: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return an interval for sum(sums) / sum(counts) by drawing parts again, with replacement.

    Args:
        sums: of each part (N,), such as nats of a window.
        counts: of each part (N,), such as its tokens.
        level: share of draws inside.
        draws: how many.
        seed: of the draws.

    Returns:
        The percentile interval, or None with fewer than two parts.
    """
    n = len(sums)
    if n < 2:
        return None
    generator = np.random.default_rng(seed)
    ratios = np.empty(draws)
    for i in range(draws):
        times = np.bincount(generator.integers(0, n, n), minlength=n)
        ratios[i] = (times @ sums) / (times @ counts)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
