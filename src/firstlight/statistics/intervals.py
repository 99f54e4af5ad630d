"""Bootstrap intervals (Efron 1979), over blocks of neighbours where parts are many (Künsch 1989)."""

import numpy as np

_MOST_BLOCKS = 1000


def ratio_interval(
    sums: np.ndarray, counts: np.ndarray, *, level: float = 0.95, n_bootstrap: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return an interval for sum(sums) / sum(counts) by drawing parts again, with replacement.

    Parts beyond a thousand are joined to blocks of neighbours, which may depend on each other; this also keeps the
    cost the same for any number of them.

    Args:
        sums: of each part (N,), such as nats of a window.
        counts: of each part (N,), such as its tokens; positive.
        level: share of n_bootstrap inside.
        n_bootstrap: how many.
        seed: of the n_bootstrap.

    Returns:
        The percentile interval, or None with fewer than two parts; (nan, nan) where a sum is not finite.
    """
    if len(sums) < 2:
        return None
    if not np.isfinite(sums).all():
        return float("nan"), float("nan")
    if len(sums) > _MOST_BLOCKS:
        begins = np.linspace(0, len(sums), _MOST_BLOCKS, endpoint=False).astype(np.int64)
        sums, counts = np.add.reduceat(sums, begins), np.add.reduceat(counts, begins)
    n = len(sums)
    generator = np.random.default_rng(seed)
    ratios = np.empty(n_bootstrap)
    for i in range(n_bootstrap):
        times = np.bincount(generator.integers(0, n, n), minlength=n)
        ratios[i] = (times @ sums) / (times @ counts)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
