"""Prefetch the next batch in a thread while the current step runs.

Batches are a pure function of the position, so a wrong prediction of the next one costs time and never changes data.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from firstlight.types import BatchLike


class Prefetcher:
    """Loads batches by position, the predicted next one in advance.

    Args:
        load: (position, rows) -> batch; a pure function.
    """

    def __init__(self, load: Callable[[int, int], BatchLike]) -> None:
        self._load = load
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._next: tuple[tuple[int, int], Future[BatchLike]] | None = None

    def get(self, position: int, rows: int, following: int) -> BatchLike:
        """Return the batch at ``position``, and start to load the one at ``following``."""
        prefetched, self._next = self._next, None
        batch = (
            prefetched[1].result() if prefetched and prefetched[0] == (position, rows) else self._load(position, rows)
        )
        self._next = ((following, rows), self._pool.submit(self._load, following, rows))
        return batch

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
