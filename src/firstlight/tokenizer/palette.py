"""A palette by k-means, from scikit-learn."""

import numpy as np
from jaxtyping import UInt8

from firstlight import progress
from firstlight.errors import MissingExtra

_BATCH = 8192


def centres(pixels: UInt8[np.ndarray, "P 3"], n: int, seed: int) -> UInt8[np.ndarray, "n 3"]:
    """Return the centres of ``n`` groups of colours, rounded, each once, in order.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise MissingExtra("a palette of colours", "images") from error
    progress.notice(f"a palette of {n} colours is found by k-means on {len(pixels):,} pixels")
    groups = MiniBatchKMeans(n, random_state=seed, n_init=1, batch_size=_BATCH, max_iter=30)
    found = groups.fit(pixels.astype(np.float32)).cluster_centers_
    return np.unique(np.rint(found).clip(0, 255).astype(np.uint8), axis=0)
