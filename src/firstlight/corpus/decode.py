"""Bytes to text, piece by piece: UTF-8 checked, bad bytes reported with their offset, line ends made one."""

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError

PIECE = 1 << 20
_MARKS = {b"\xff\xfe": "UTF-16 (little endian)", b"\xfe\xff": "UTF-16 (big endian)"}


def pieces(file: BinaryIO, name: str, settings: CorpusSettings, tally: Tally, size: int = PIECE) -> Iterator[str]:
    """Yield the text of a file in pieces; joined, they are the whole text.

    Raises:
        CorpusError: a byte is no UTF-8 and ``on_bad_bytes`` is "error"; names file and offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset, first, held_cr = 0, True, False
    while True:
        data = file.read(size)
        if first and data[:2] in _MARKS:
            raise CorpusError(
                "is not UTF-8", where=name, found=_MARKS[data[:2]], fix=f"Convert it: iconv -f UTF-16 -t UTF-8 {name}"
            )
        text, offset = _decode(decoder, data, offset, name, settings, tally)
        if first and settings.newlines == "lf":
            text = text.removeprefix("\ufeff")
        first = first and not data
        if settings.newlines == "lf":
            text = ("\r" if held_cr else "") + text
            # A CR at the end may be the first half of a CRLF.
            held_cr = bool(data) and text.endswith("\r")
            text = (text[:-1] if held_cr else text).replace("\r\n", "\n").replace("\r", "\n")
        if text:
            yield text
        if not data:
            return


def _decode(
    decoder: codecs.IncrementalDecoder, data: bytes, offset: int, name: str, settings: CorpusSettings, tally: Tally
) -> tuple[str, int]:
    """Decode ``data``, which begins at ``offset``; return the text and the offset after it."""
    out = []
    held = len(decoder.getstate()[0])
    start = offset - held  # where the bytes that the decoder works on begin
    buffer, final = decoder.getstate()[0] + data, not data
    decoder.reset()
    while True:
        try:
            out.append(decoder.decode(buffer, final=final))
            return "".join(out), offset + len(data)
        except UnicodeDecodeError as error:
            place = start + error.start
            bad = buffer[error.start : error.end]
            if settings.on_bad_bytes == "error":
                raise CorpusError(
                    "is not UTF-8", where=f"{name}: byte {place}", found=" ".join(f"{b:02x}" for b in bad),
                    fix="Convert the file, or go on with --on-bad-bytes replace (or skip).",
                ) from error  # fmt: skip
            tally.bad(f"{name}: byte {place}")
            out.append(buffer[: error.start].decode("utf-8"))
            if settings.on_bad_bytes == "replace":
                out.append("\ufffd")
            start += error.end
            buffer = buffer[error.end :]
            decoder.reset()
