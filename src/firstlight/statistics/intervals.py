"""Confidence intervals: bootstrap (Efron 1979; of blocks, Künsch 1989), and of proportions Wilson's (1927)."""

from statistics import NormalDist

import numpy as np

_MAX_BLOCKS = 1000


def ratio_interval(
    sums: np.ndarray, counts: np.ndarray, *, level: float = 0.95, n_bootstrap: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Compute a bootstrap confidence interval for sum(sums) / sum(counts), resampling parts with replacement.

    More than a thousand parts are joined into blocks of neighbours, which may be correlated; this also bounds the cost.

    Args:
        sums: of each part (N,), such as nats of a window.
        counts: of each part (N,), such as its tokens; positive.
        level: confidence level.
        n_bootstrap: number of resamples.
        seed: seed of the resampling.

    Returns:
        The percentile interval, or None with fewer than two parts; (nan, nan) where a sum is not finite.
    """
    if len(sums) < 2:
        return None
    if not np.isfinite(sums).all():
        return float("nan"), float("nan")
    if len(sums) > _MAX_BLOCKS:
        begins = np.linspace(0, len(sums), _MAX_BLOCKS, endpoint=False).astype(np.int64)
        sums, counts = np.add.reduceat(sums, begins), np.add.reduceat(counts, begins)
    n = len(sums)
    generator = np.random.default_rng(seed)
    ratios = np.empty(n_bootstrap)
    for i in range(n_bootstrap):
        times = np.bincount(generator.integers(0, n, n), minlength=n)
        ratios[i] = (times @ sums) / (times @ counts)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(right: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval (1927) for a proportion, which is also right where it is 0 or 1.

    Args:
        right: number of successes.
        n: number of trials, positive.
        level: confidence level.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, center - half), min(1.0, center + half)
