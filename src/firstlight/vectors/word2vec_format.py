"""Read word2vec's text and binary formats, and GloVe's text format, which has no header line.

Text: a word and its numbers per line. Binary: a header line, then each word, a space, and its float32 numbers. The
header line has the number of words and the width.
"""

import math
from array import array
from collections.abc import Container

import numpy as np

from firstlight.files import BoundedReader

WordsAndMatrix = tuple[list[str], np.ndarray]

MAX_WIDTH = 1 << 16
_MAX_LINE_BYTES = 2 << 20
_MAX_HEADER_BYTES = 100
_MAX_WORD_BYTES = 2000  # word2vec itself truncates words to a hundred


def read_text(file: BoundedReader, keep: Container[str] | None) -> WordsAndMatrix:
    """Read a text file. Words may contain spaces, as in GloVe's largest set.

    Args:
        file: at its start.
        keep: the words to read; all if None.

    Returns:
        Words, and their vectors (N, D) float32.

    Raises:
        TokenizerError: a malformed line, or another number of lines than in the header.
    """
    line = file.readline(_MAX_LINE_BYTES)
    counts = parse_header(line)
    if counts is not None:
        n_words, width = counts
        _check_counts(file, n_words, width, row_bytes=2 * width + 1)
        line = file.readline(_MAX_LINE_BYTES)
    else:
        n_words, width = None, _count_trailing_numbers(file, line)
    words: list[str] = []
    values = array("f")
    n_lines = 0
    while line:
        if line.strip():
            word = _parse_line(file, line, width, keep, values)
            n_lines += 1
            if word is not None:
                words.append(word)
        line = file.readline(_MAX_LINE_BYTES)
    if n_words is not None and n_lines != n_words:
        file.fail("the number of words differs from the header line", line=True, found=n_lines, expected=n_words)
    return words, np.frombuffer(values, dtype=np.float32).reshape(len(words), width)


def read_binary(file: BoundedReader, keep: Container[str] | None) -> WordsAndMatrix:
    """Read a binary file.

    Args:
        file: at its start.
        keep: the words to read; all if None.

    Returns:
        Words, and their vectors (N, D) float32.

    Raises:
        TokenizerError: a truncated file, or an impossible header.
    """
    counts = parse_header(file.readline(_MAX_HEADER_BYTES))
    if counts is None:
        file.fail("has no header line", line=True, expected="number of words and width")
    n_words, width = counts
    size = 4 * width
    _check_counts(file, n_words, width, row_bytes=size + 1)
    words: list[str] = []
    rows: list[bytes] = []
    for _ in range(n_words):
        # Some programs end each row with a line break, others do not.
        word = _decode_word(file, file.read_until(b" ", _MAX_WORD_BYTES).lstrip(b"\n"), line=False)
        row = file.read(size, "the numbers of a word")
        if keep is None or word in keep:
            words.append(word)
            rows.append(row)
    if file.read_up_to(64).strip():
        file.fail("has data after its last word", expected=f"{n_words:,} words, as in its header line")
    return words, np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(words), width)


def is_binary(start: bytes) -> bool:
    """Whether a file that starts with these bytes is in the binary format, not text."""
    first, _, rest = start.partition(b"\n")
    if parse_header(first) is None:
        return False
    numbers = rest.partition(b" ")[2].partition(b"\n")[0].split()
    if numbers and all(map(_is_number, numbers)):
        return False
    # A damaged text file is still mostly printable UTF-8.
    text = rest.rpartition(b"\n")[0].decode("utf-8", "replace") or rest.decode("utf-8", "replace")
    return "\ufffd" in text or any(c < " " and c not in "\t\r\n" for c in text)


def parse_header(line: bytes) -> tuple[int, int] | None:
    """Parse the number of words and the width in a header line; None for any other line."""
    parts = line.split()
    if len(parts) != 2 or not all(part.isdigit() and len(part) < 16 for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def _check_counts(file: BoundedReader, n_words: int, width: int, *, row_bytes: int) -> None:
    """Raise for counts that a file of this size cannot have."""
    if not 1 <= width <= MAX_WIDTH or n_words < 1:
        file.fail("has an invalid header line", line=True, found=f"{n_words} words of {width} numbers")
    file.require(n_words * row_bytes - 1, f"{n_words:,} words of {width:,} numbers")


def _decode_word(file: BoundedReader, word: bytes, *, line: bool) -> str:
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        file.fail("has a word that is not UTF-8", line=line, found=repr(word[:20]))


def _parse_line(
    file: BoundedReader, line: bytes, width: int, keep: Container[str] | None, values: "array[float]"
) -> str | None:
    """Append a line's numbers to ``values`` and return its word; None for a word that is not in ``keep``."""
    parts = line.rsplit(None, width)
    if len(parts) != width + 1:
        file.fail("has too few numbers", line=True, found=len(parts) - 1, expected=width)
    word = _decode_word(file, parts[0].strip(b" \t"), line=True)
    if b" " in parts[0] and _is_number(parts[0].split()[-1]):
        file.fail("has more numbers than the previous lines", line=True, expected=width)
    if keep is not None and word not in keep:
        return None
    try:
        numbers = [float(part) for part in parts[1:]]
    except ValueError:
        bad = next(part for part in parts[1:] if not _is_number(part))
        file.fail("is not a number", line=True, found=repr(bad[:20].decode("utf-8", "replace")))
    if not math.isfinite(sum(numbers)):
        file.fail("has numbers that are not finite", line=True)
    values.extend(numbers)
    return word


def _count_trailing_numbers(file: BoundedReader, line: bytes) -> int:
    """Count the numbers at the end of the first line; its first part is always a word."""
    parts = line.split()
    count = 0
    for part in reversed(parts[1:]):
        if not _is_number(part):
            break
        count += 1
    if not 1 <= count <= MAX_WIDTH:
        file.fail(
            "is not a file of word vectors",
            line=True,
            found=repr(line[:40].decode("utf-8", "replace").strip()),
            expected="a word and its numbers",
        )
    return count


def _is_number(part: bytes) -> bool:
    """Whether Python parses the bytes as a number."""
    try:
        float(part)
    except ValueError:
        return False
    return True
