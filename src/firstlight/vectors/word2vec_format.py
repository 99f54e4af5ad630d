"""Read word2vec's text and binary formats, and GloVe's text format, which has no header line.

Text: a word and its numbers per line. Binary: a header line, then each word, a space, and its float32 numbers. The
header line has the number of words and the width.
"""

import math
from array import array
from collections.abc import Container
from typing import Literal

import numpy as np

from firstlight import progress
from firstlight.files import BoundedReader

WordsAndMatrix = tuple[list[str], np.ndarray]
OnBadBytes = Literal["error", "replace", "skip"]

MAX_WIDTH = 1 << 16
_MAX_LINE_BYTES = 2 << 20
_MAX_HEADER_BYTES = 100
_MAX_WORD_BYTES = 2000  # word2vec itself truncates words to a hundred, also within a letter
_BOM = b"\xef\xbb\xbf"
_SAMPLE_NUMBERS = 4096
_BIG_ENDIAN_FIX = "Convert it to little endian, or write it as text."


class WordDecoder:
    """Decodes the words of a file, and counts those that are not UTF-8, or empty.

    Args:
        file: whose words they are.
        on_bad_bytes: "error", or what becomes of bytes that are not UTF-8: U+FFFD, or nothing.
    """

    def __init__(self, file: BoundedReader, on_bad_bytes: OnBadBytes) -> None:
        self._file, self._on_bad_bytes = file, on_bad_bytes
        self._n_bad = self._n_empty = 0

    def decode(self, word: bytes, *, line: bool) -> str | None:
        """Decode a word; None if it is empty, and so left out.

        Args:
            word: its bytes.
            line: name the line in the error, not the byte.

        Raises:
            TokenizerError: it is not UTF-8, and ``on_bad_bytes`` is "error".
        """
        try:
            text = word.decode("utf-8")
        except UnicodeDecodeError as error:
            if self._on_bad_bytes == "error":
                start = max(0, error.start - 20)
                self._file.fail(
                    "has a word that is not UTF-8",
                    line=line,
                    found=f"{word[start : error.start + 4]!r} at byte {error.start} of {len(word)} of the word",
                    fix="Replace such bytes, or leave them out: --on-bad-bytes replace, or skip.",
                )
            self._n_bad += 1
            text = word.decode("utf-8", "replace" if self._on_bad_bytes == "replace" else "ignore")
        if not text:
            self._n_empty += 1
        return text or None

    def report(self) -> None:
        """Warn of the words that were changed or left out."""
        if self._n_bad:
            done = "replaced by U+FFFD" if self._on_bad_bytes == "replace" else "left out"
            progress.warn(f"{self._file.path}: words that are not UTF-8: {self._n_bad:,}; their bad bytes are {done}")
        if self._n_empty:
            progress.warn(f"{self._file.path}: empty words: {self._n_empty:,}, left out")


def read_text(file: BoundedReader, keep: Container[str] | None, on_bad_bytes: OnBadBytes = "error") -> WordsAndMatrix:
    """Read a text file. Words may contain spaces, as in GloVe's largest set.

    Args:
        file: at its start.
        keep: the words to read; all if None.
        on_bad_bytes: as of ``WordDecoder``.

    Returns:
        Words, and their vectors (N, D) float32.

    Raises:
        TokenizerError: a malformed line, or another number of lines than in the header.
    """
    line = file.readline(_MAX_LINE_BYTES).removeprefix(_BOM)
    decoder = WordDecoder(file, on_bad_bytes)
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
            word = _parse_line(decoder, file, line, width, keep, values)
            n_lines += 1
            if word is not None:
                words.append(word)
        line = file.readline(_MAX_LINE_BYTES)
    if n_words is not None and n_lines != n_words:
        file.fail(
            "the number of words differs from the header line",
            line=True,
            found=n_lines,
            expected=n_words,
            fix="Get the whole file, or correct its first line.",
        )
    decoder.report()
    return words, np.frombuffer(values, dtype=np.float32).reshape(len(words), width)


def read_binary(file: BoundedReader, keep: Container[str] | None, on_bad_bytes: OnBadBytes = "error") -> WordsAndMatrix:
    """Read a binary file.

    Args:
        file: at its start.
        keep: the words to read; all if None.
        on_bad_bytes: as of ``WordDecoder``.

    Returns:
        Words, and their vectors (N, D) float32.

    Raises:
        TokenizerError: a truncated file, or an impossible header.
    """
    counts = parse_header(file.readline(_MAX_HEADER_BYTES).removeprefix(_BOM))
    if counts is None:
        file.fail("has no header line", line=True, expected="number of words and width")
    n_words, width = counts
    size = 4 * width
    _check_counts(file, n_words, width, row_bytes=size + 1)
    words: list[str] = []
    rows: list[bytes] = []
    decoder = WordDecoder(file, on_bad_bytes)
    sample = b""
    has_breaks = None
    for i in range(n_words):
        # Some programs end each row with a line break, others do not; one that ends some was read at wrong places.
        stored = file.read_until(b" ", _MAX_WORD_BYTES)
        if i and has_breaks is None:
            has_breaks = stored.startswith(b"\n")
        elif i and has_breaks != stored.startswith(b"\n"):
            file.fail("is damaged, or has a word with a space, which this format cannot represent")
        word = decoder.decode(stored.lstrip(b"\n"), line=False)
        row = file.read(size, "the numbers of a word")
        if len(sample) < 4 * _SAMPLE_NUMBERS:
            sample += row
        if word is not None and (keep is None or word in keep):
            words.append(word)
            rows.append(row)
    if file.read_up_to(64).strip():
        file.fail("has data after its last word", expected=f"{n_words:,} words, as in its header line")
    _check_byte_order(file, sample)
    decoder.report()
    return words, np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(words), width)


def is_binary(start: bytes, name: str) -> bool:
    """Whether a file that starts with these bytes is binary, not text; its name decides where both fit."""
    first, _, rest = start.removeprefix(_BOM).partition(b"\n")
    if parse_header(first) is None:
        return False
    numbers = rest.partition(b" ")[2].partition(b"\n")[0].split()
    if numbers and all(map(_is_number, numbers)):
        return False
    # A damaged text file is still mostly printable UTF-8.
    text = rest.rpartition(b"\n")[0].decode("utf-8", "replace") or rest.decode("utf-8", "replace")
    return name.endswith(".bin") or "\ufffd" in text or any(c < " " and c not in "\t\r\n" for c in text)


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


def _check_byte_order(file: BoundedReader, sample: bytes) -> None:
    """Refuse big-endian numbers: read as little endian most of them are absurdly large or small."""
    values = np.frombuffer(sample, "<f4")
    if _share_usual(values) < 0.5 and _share_usual(values.byteswap()) > 0.9:
        file.fail("its numbers are big endian", expected="little endian", fix=_BIG_ENDIAN_FIX)


def _share_usual(values: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        magnitudes = np.abs(values)
        return float(np.mean((magnitudes == 0) | (magnitudes > 1e-9) & (magnitudes < 1e6)))


def _parse_line(
    decoder: WordDecoder,
    file: BoundedReader,
    line: bytes,
    width: int,
    keep: Container[str] | None,
    values: "array[float]",
) -> str | None:
    """Append a line's numbers to ``values`` and return its word; None for one that is empty or not in ``keep``."""
    parts = line.rsplit(None, width)
    if len(parts) == width and line[:1].isspace() and _is_number(parts[0]):
        parts.insert(0, b"")  # an empty word
    if len(parts) != width + 1:
        file.fail("has too few numbers", line=True, found=len(parts) - 1, expected=width)
    name = parts[0].strip(b" \t")
    if b"\r" in name:
        file.fail("has lines that end in a carriage return alone", line=True, expected="line feeds")
    word = decoder.decode(name, line=True)
    if b" " in name and _is_number(name.split()[-1]):
        file.fail("has more numbers than the previous lines", line=True, expected=width)
    if word is None or keep is not None and word not in keep:
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
