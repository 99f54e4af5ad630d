"""The text of a file, whole, in pieces or by lines, without byte order marks at the starts of lines."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from firstlight.files.limits import DEFAULT_LIMITS, Limits
from firstlight.files.text_decoder import CHUNK_BYTES, Decoding, TextDecoder

_BOM = "\ufeff"
_LINE_BOMS = re.compile("(^|[\r\n])\ufeff+")


class LineBoms:
    """Removes byte order marks at the starts of lines, where they are left when files are joined.

    Attributes:
        n_within: marks that were removed after the first line.
    """

    def __init__(self) -> None:
        self._after_break = True
        self._is_first = True
        self.n_within = 0

    def remove(self, text: str) -> str:
        """Return the next piece of a text without them."""
        if not text:
            return text
        if _BOM in text:
            rest = text if self._after_break else f"x{text}"
            cleaned = _LINE_BOMS.sub(r"\1", rest)
            removed = len(rest) - len(cleaned)
            at_start = len(text) - len(text.lstrip(_BOM)) if self._is_first else 0
            self.n_within += removed - at_start
            text = cleaned if self._after_break else cleaned[1:]
        self._is_first = self._is_first and not text
        self._after_break = text.endswith(("\n", "\r")) if text else self._after_break
        return text


def decode_text(data: bytes, name: str, how: Decoding | None = None) -> str:
    """Decode a text that is held whole, without a byte order mark at its start.

    Raises:
        Failure: of the class ``how.error``: as ``TextDecoder``.
    """
    decoder = TextDecoder(name, how or Decoding())
    return (decoder.decode(data) + decoder.decode(b"")).removeprefix(_BOM) if data else ""


def iter_text(file: BinaryIO, path: Path, how: Decoding | None = None) -> Iterator[str]:
    """Yield the text of a file in pieces, none of them empty, without byte order marks at the starts of lines.

    Raises:
        Failure: of the class ``how.error``: as ``TextDecoder``.
    """
    how = how or Decoding()
    decoder, boms, data = TextDecoder(str(path), how), LineBoms(), b"\0"
    while data:
        data = file.read(CHUNK_BYTES)
        if text := boms.remove(decoder.decode(data)):
            yield text
    if boms.n_within:
        how.note(f"read without {boms.n_within:,} byte order marks within its text")


def iter_lines(
    file: BinaryIO, path: Path, how: Decoding | None = None, *, limits: Limits = DEFAULT_LIMITS
) -> Iterator[str]:
    r"""Yield the lines of a text file, with their ``\n``; no other character ends one.

    Args:
        file: open for reading bytes.
        path: its name in messages.
        how: the encoding.
        limits: bound the length of a line.

    Raises:
        Failure: of the class ``how.error``: as ``TextDecoder``, or a line is too long.
    """
    how = how or Decoding(by_line=True)
    number, held, size = 1, [], 0
    for piece in iter_text(file, path, how):
        *whole, last = piece.split("\n")
        if whole:
            held.append(whole[0])
            yield "".join(held) + "\n"
            yield from (f"{line}\n" for line in whole[1:])
            number, held, size = number + len(whole), [], 0
        held.append(last)
        size += len(last)
        limits.check_size(size, "the line", f"{path}:{number}", error=how.error)
    if rest := "".join(held):
        yield rest


def opening_word(text: str) -> str | None:
    """Return a word of a text, cut short, to be the prompt of an example; None where it has no word.

    The first capitalised one, since a generated text can begin amid a word; else the first.
    """
    word = re.search(r"(?<=\s)[A-Z][a-z]{2,}(?=[\s,.])", text) or re.search(r"[^\W\d_]{2,}", text)
    if word is None:
        return None
    return word[0][:12] if word[0].isascii() else word[0][:4]  # of Chinese, which has no spaces, the first characters
