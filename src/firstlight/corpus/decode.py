"""Bytes to text, piece by piece: UTF-8 checked, bad bytes reported with their offset, line ends made one.

No function here holds more than a piece, or than one part between two separators.
"""

import codecs
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError

PIECE = 1 << 20
_MARKS = {b"\xff\xfe": ("UTF-16 (little endian)", "UTF-16LE"), b"\xfe\xff": ("UTF-16 (big endian)", "UTF-16BE")}
_ESCAPED = re.compile("[\udc80-\udcff]+")


def pieces(
    file: BinaryIO, name: str, settings: CorpusSettings, tally: Tally, *, size: int = PIECE, mark_goes: bool = False
) -> Iterator[str]:
    """Yield the text of a file in pieces, none of them empty; joined, they are the whole text.

    Args:
        file: bytes; a short read that is not empty is no end.
        name: the file's name in messages.
        settings: what to do with bad bytes and line ends.
        tally: counts the bad bytes.
        size: bytes to a piece.
        mark_goes: a byte order mark is no text even where line ends are kept, as in every format but plain text.

    Raises:
        CorpusError: a byte is no UTF-8 and ``on_bad_bytes`` is "error" (names file and offset), or it is UTF-16.
    """
    utf8 = _Utf8(name, settings.on_bad_bytes, tally)
    ends = io.IncrementalNewlineDecoder(None, translate=True) if settings.newlines == "lf" else None
    mark = "\ufeff" if ends is not None or mark_goes else ""
    waits = False  # a CR that may be the first half of a CRLF is held
    while True:
        data = file.read(size)
        text = utf8.decode(data)
        if mark and text:
            text, mark = text.removeprefix(mark), ""
        if ends is not None and (waits or "\r" in text):
            waits = text.endswith("\r") if text else waits
            text = ends.decode(text, final=not data)
        if text:
            yield text
        if not data:
            return


def parts(stream: Iterator[str], separator: str = "\n") -> Iterator[str]:
    """Yield what stands between separators, wherever the pieces were cut; nothing after a last separator.

    Each character is looked at a fixed number of times, also where one part fills many pieces.
    """
    done: list[str] = []  # of the part under way, without its tail
    tail = ""  # the end of it, where a separator may have begun
    overlap = len(separator) - 1
    for piece in stream:
        *whole, last = (tail + piece).split(separator)
        if whole:
            done.append(whole[0])
            yield "".join(done)
            yield from whole[1:]
            done = []
        cut = max(0, len(last) - overlap)
        done.append(last[:cut])
        tail = last[cut:]
    if end := "".join(done) + tail:
        yield end


class _Utf8:
    """Decodes UTF-8 as bytes come, with the offset of what is none; a sequence cut by a border waits for its rest."""

    def __init__(self, name: str, on_bad: str, tally: Tally) -> None:
        self._name, self._on_bad, self._tally = name, on_bad, tally
        self._held = b""
        self._offset = 0  # of the first byte that is held, or comes next
        self._head = b""
        self._bad_end = -1

    def decode(self, data: bytes) -> str:
        """Return the text of ``data`` and of what was held; no data is the end."""
        if len(self._head) < 2:
            self._head = (self._head + data)[:2]
            if self._head in _MARKS:
                kind, code = _MARKS[self._head]
                raise CorpusError(
                    "is not UTF-8",
                    where=self._name,
                    found=kind,
                    fix=f"Convert it: iconv -f {code} -t UTF-8 {self._name} > NEW",
                )
        buffer, final = self._held + data, not data
        try:
            text, used = codecs.utf_8_decode(buffer, "strict", final)
        except UnicodeDecodeError as error:
            if self._on_bad == "error":
                raise CorpusError(
                    "is not UTF-8",
                    where=f"{self._name}: byte {self._offset + error.start}",
                    found=buffer[error.start : error.end].hex(" "),
                    fix="Convert the file, or go on with --on-bad-bytes replace (or skip).",
                ) from error
            # Bad bytes become lone surrogates, in C; catching them one by one costs a copy of the buffer each.
            escaped, used = codecs.utf_8_decode(buffer, "surrogateescape", final)
            text = self._mended(escaped)
        self._held = buffer[used:]
        self._offset += used
        return text

    def _mended(self, escaped: str) -> str:
        out, at, place = [], 0, self._offset
        for run in _ESCAPED.finditer(escaped):
            good, bad = escaped[at : run.start()], run.group().encode("utf-8", "surrogateescape")
            place += len(good.encode("utf-8"))
            self._tally.n_bad += len(bad)
            if place != self._bad_end:
                self._tally.bad(f"{self._name}: byte {place}")
            place = self._bad_end = place + len(bad)
            at = run.end()
            out += [good, bad.decode("utf-8", "replace" if self._on_bad == "replace" else "ignore")]
        return "".join([*out, escaped[at:]])
