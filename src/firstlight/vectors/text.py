"""Vectors as text, a word and its numbers a line: GloVe's, and word2vec's, which begins with a line of both counts."""

import math
from array import array
from collections.abc import Container

import numpy as np

from firstlight.files import BoundedReader

Read = tuple[list[str], np.ndarray]

MOST_WIDE = 1 << 16
_MOST_LINE = 2 << 20


def read_text(stream: BoundedReader, wanted: Container[str] | None) -> Read:
    """Read a text; a word may have spaces in it, as some of GloVe's largest set do.

    Args:
        stream: at its beginning.
        wanted: the words whose numbers are read; all where None.

    Returns:
        Words, and their vectors (N, D) float32.

    Raises:
        TokenizerError: a line that is none, or fewer lines than the first one says.
    """
    first = stream.readline(_MOST_LINE)
    counts = header(first)
    if counts is not None:
        n, width = counts
        check(stream, n, width, row_bytes=2 * width + 1)
        line = stream.readline(_MOST_LINE)
    else:
        n, width, line = None, _numbers_at_end(stream, first), first
    words: list[str] = []
    values = array("f")
    seen = 0
    while line:
        if line.strip():
            word = _row(stream, line, width, wanted, values)
            seen += 1
            if word is not None:
                words.append(word)
        line = stream.readline(_MOST_LINE)
    if n is not None and seen != n:
        stream.fail("has another number of words than its first line says", line=True, found=seen, expected=n)
    return words, np.frombuffer(values, dtype=np.float32).reshape(len(words), width)


def header(line: bytes) -> tuple[int, int] | None:
    """Return the two counts of word2vec's first line, or None for a line that is something else."""
    parts = line.split()
    if len(parts) != 2 or not all(part.isdigit() and len(part) < 16 for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def check(stream: BoundedReader, n: int, width: int, *, row_bytes: int) -> None:
    """Refuse counts that no file of this size can have."""
    if not 1 <= width <= MOST_WIDE or n < 1:
        stream.fail("has absurd counts", line=True, found=f"{n} words of {width} numbers")
    stream.require(n * row_bytes - 1, f"{n:,} words of {width:,} numbers")


def decoded(stream: BoundedReader, word: bytes, *, line: bool) -> str:
    """Return a word's text.

    Raises:
        TokenizerError: it is no UTF-8.
    """
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        stream.fail("has a word that is no UTF-8", line=line, found=repr(word[:20]))


def _row(
    stream: BoundedReader, line: bytes, width: int, wanted: Container[str] | None, values: "array[float]"
) -> str | None:
    """Append a line's numbers; return its word, or None where nobody wants it."""
    parts = line.rsplit(None, width)
    if len(parts) != width + 1:
        stream.fail("has too few numbers", line=True, found=len(parts) - 1, expected=width)
    word = decoded(stream, parts[0].strip(b" \t"), line=True)
    if b" " in parts[0] and is_number(parts[0].split()[-1]):
        stream.fail("has more numbers than the lines before", line=True, expected=width)
    if wanted is not None and word not in wanted:
        return None
    try:
        numbers = [float(part) for part in parts[1:]]
    except ValueError:
        odd = next(part for part in parts[1:] if not is_number(part))
        stream.fail("has something that is no number", line=True, found=repr(odd[:20].decode("utf-8", "replace")))
    if not math.isfinite(sum(numbers)):
        stream.fail("has numbers that are not finite", line=True)
    values.extend(numbers)
    return word


def _numbers_at_end(stream: BoundedReader, line: bytes) -> int:
    """Return how many numbers the first line ends with; its first part is always a word."""
    parts = line.split()
    count = 0
    for part in reversed(parts[1:]):
        if not is_number(part):
            break
        count += 1
    if not 1 <= count <= MOST_WIDE:
        stream.fail(
            "holds no word vectors",
            line=True,
            found=repr(line[:40].decode("utf-8", "replace").strip()),
            expected="a word and its numbers",
        )
    return count


def is_number(part: bytes) -> bool:
    """Tell what Python reads as a number."""
    try:
        float(part)
    except ValueError:
        return False
    return True
