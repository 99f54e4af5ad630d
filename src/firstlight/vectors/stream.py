"""Open a file of vectors, gzipped or not, reporting progress while it is read."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import BoundedReader, storage_errors


@contextmanager
def open_vectors(path: Path) -> Iterator[BoundedReader]:
    """Open a file of vectors for reading from front to back.

    Raises:
        TokenizerError: it cannot be opened.
        StorageError: it may not be read, or the disk reports an error.
    """
    size = None
    # Other errors are reported by the reader.
    with suppress(OSError), storage_errors(path), path.open("rb"):
        size = path.stat().st_size
    with (
        progress.task("vectors", size, "B") as task,
        BoundedReader(path, TokenizerError, decompress=True, on_read=task.advance) as reader,
    ):
        yield reader
