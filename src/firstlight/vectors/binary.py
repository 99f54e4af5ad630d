"""Vectors as word2vec's own binary files have them: a line of both counts, then each word, a space, its numbers."""

from collections.abc import Container

import numpy as np

from firstlight.files import BoundedReader
from firstlight.vectors.text import Read, check, decoded, header, is_number

_MOST_WORD = 2000  # bytes; word2vec itself cuts words at a hundred


def is_binary(head: bytes) -> bool:
    """Tell binary from text by the bytes behind the first word, which in a text are numbers."""
    first, _, rest = head.partition(b"\n")
    if header(first) is None:
        return False
    numbers = rest.partition(b" ")[2].partition(b"\n")[0].split()
    if numbers and all(map(is_number, numbers)):
        return False
    # Else a text that is damaged, which at least is a text.
    whole = rest.rpartition(b"\n")[0].decode("utf-8", "replace") or rest.decode("utf-8", "replace")
    return "\ufffd" in whole or any(c < " " and c not in "\t\r\n" for c in whole)


def read_binary(stream: BoundedReader, wanted: Container[str] | None) -> Read:
    """Read a binary file.

    Args:
        stream: at its beginning.
        wanted: the words whose numbers are kept; all where None.

    Raises:
        TokenizerError: it is cut, or its counts cannot be true.
    """
    counts = header(stream.readline(100))
    if counts is None:
        stream.fail("has no counts in its first line", line=True)
    n, width = counts
    size = 4 * width
    check(stream, n, width, row_bytes=size + 1)
    words: list[str] = []
    rows: list[bytes] = []
    for _ in range(n):
        # Some programs end each row with a line break, others do not.
        word = decoded(stream, stream.read_until(b" ", _MOST_WORD).lstrip(b"\n"), line=False)
        row = stream.read(size, "the numbers of a word")
        if wanted is None or word in wanted:
            words.append(word)
            rows.append(row)
    if stream.read_up_to(64).strip():
        stream.fail("goes on behind its last word", expected=f"{n:,} words, as its first line says")
    return words, np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(words), width)
