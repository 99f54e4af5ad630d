"""Batches one step ahead: a thread computes the next batch while the current one trains.

Batches are a pure function of the position, so a wrong guess costs time and never changes data.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from firstlight.types import BatchLike


class Prefetcher:
    """Reads batches by position, guessing that the next one follows the last.

    Args:
        read: (position, rows) -> a batch, pure.
    """

    def __init__(self, read: Callable[[int, int], BatchLike]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next: tuple[tuple[int, int], Future[BatchLike]] | None = None

    def take(self, position: int, rows: int, following: int) -> BatchLike:
        """Return the batch at ``position`` and start reading the one at ``following``."""
        guess, self._next = self._next, None
        batch = guess[1].result() if guess and guess[0] == (position, rows) else self._read(position, rows)
        self._next = ((following, rows), self._pool.submit(self._read, following, rows))
        return batch

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
