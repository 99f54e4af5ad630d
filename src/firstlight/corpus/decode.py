"""Decode bytes to text chunk by chunk: UTF-8 checked, bad bytes reported with their offset, line ends normalised.

No function here holds more than one chunk, or one part between two separators.
"""

import codecs
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files.limits import DEFAULT_LIMITS, Limits

CHUNK_BYTES = 1 << 20
_UTF16 = {b"\xff\xfe": ("UTF-16 (little endian)", "UTF-16LE"), b"\xfe\xff": ("UTF-16 (big endian)", "UTF-16BE")}
_SURROGATES = re.compile("[\udc80-\udcff]+")


def decode_chunks(
    file: BinaryIO,
    name: str,
    settings: CorpusSettings,
    tally: Tally,
    *,
    size: int = CHUNK_BYTES,
    strip_bom: bool = False,
) -> Iterator[str]:
    """Yield the text of a file in chunks, none of them empty.

    Args:
        file: open for reading bytes; only an empty read is the end.
        name: the file's name in messages.
        settings: what to do with bad bytes and line ends.
        tally: counts the bad bytes.
        size: bytes per chunk.
        strip_bom: remove a byte order mark even if line ends are kept, as in every format but plain text.

    Raises:
        CorpusError: a byte is not UTF-8 and ``on_bad_bytes`` is "error" (names file and offset), or it is UTF-16.
    """
    decoder = _Utf8Decoder(name, settings.on_bad_bytes, tally)
    newlines = io.IncrementalNewlineDecoder(None, translate=True) if settings.newlines == "lf" else None
    bom = "\ufeff" if newlines is not None or strip_bom else ""
    pending_cr = False  # a CR that may be the first half of a CRLF is held back
    while True:
        data = file.read(size)
        text = decoder.decode(data)
        if bom and text:
            text, bom = text.removeprefix(bom), ""
        if newlines is not None and (pending_cr or "\r" in text):
            pending_cr = text.endswith("\r") if text else pending_cr
            text = newlines.decode(text, final=not data)
        if text:
            yield text
        if not data:
            return


def split_stream(
    stream: Iterator[str], separator: str = "\n", *, where: object = None, limits: Limits = DEFAULT_LIMITS
) -> Iterator[str]:
    """Split streamed text at a separator, as ``str.split``, but without an empty part after the last separator.

    Each character is looked at a fixed number of times, also where one part fills many chunks.

    Args:
        stream: the text.
        separator: ends a part.
        where: the file, for messages.
        limits: bound the length of a part.

    Raises:
        CorpusError: a part is too long.
    """
    number, size = 1, 0
    done: list[str] = []  # of the current part, without its tail
    tail = ""  # the end of it, where a separator may have started
    overlap = len(separator) - 1
    for chunk in stream:
        *whole, last = (tail + chunk).split(separator)
        if whole:
            done.append(whole[0])
            yield "".join(done)
            yield from whole[1:]
            done, size, number = [], 0, number + len(whole)
        cut = max(0, len(last) - overlap)
        done.append(last[:cut])
        size += cut
        limits.check_size(size, "the line" if separator == "\n" else "the document", f"{where}:{number}")
        tail = last[cut:]
    if end := "".join(done) + tail:
        yield end


class _Utf8Decoder:
    """Incremental UTF-8 decoder that reports the offset of bad bytes; a sequence split over two chunks is joined."""

    def __init__(self, name: str, on_bad: str, tally: Tally) -> None:
        self._name, self._on_bad, self._tally = name, on_bad, tally
        self._pending = b""
        self._offset = 0  # of the first byte that is pending, or comes next
        self._head = b""
        self._bad_end = -1

    def decode(self, data: bytes) -> str:
        """Decode ``data`` and what was pending; empty ``data`` is the end."""
        if len(self._head) < 2:
            self._head = (self._head + data)[:2]
            if self._head in _UTF16:
                kind, code = _UTF16[self._head]
                raise CorpusError(
                    "is not UTF-8",
                    where=self._name,
                    found=kind,
                    fix=f"Convert it: iconv -f {code} -t UTF-8 {self._name} > NEW",
                )
        buffer, final = self._pending + data, not data
        try:
            text, used = codecs.utf_8_decode(buffer, "strict", final)
        except UnicodeDecodeError as error:
            if self._on_bad == "error":
                raise CorpusError(
                    "is not UTF-8",
                    where=f"{self._name}: byte {self._offset + error.start}",
                    found=buffer[error.start : error.end].hex(" "),
                    fix="Convert the file, or continue with --on-bad-bytes replace (or skip).",
                ) from error
            # Bad bytes become lone surrogates, in C; catching them one by one costs a copy of the buffer each.
            escaped, used = codecs.utf_8_decode(buffer, "surrogateescape", final)
            text = self._replace_surrogates(escaped)
        self._pending = buffer[used:]
        self._offset += used
        return text

    def _replace_surrogates(self, escaped: str) -> str:
        out, pos, offset = [], 0, self._offset
        for run in _SURROGATES.finditer(escaped):
            good, bad = escaped[pos : run.start()], run.group().encode("utf-8", "surrogateescape")
            offset += len(good.encode("utf-8"))
            self._tally.n_bad += len(bad)
            if offset != self._bad_end:
                self._tally.add_bad_bytes(f"{self._name}: byte {offset}")
            offset = self._bad_end = offset + len(bad)
            pos = run.end()
            out += [good, bad.decode("utf-8", "replace" if self._on_bad == "replace" else "ignore")]
        return "".join([*out, escaped[pos:]])
