"""Decode the text of a corpus chunk by chunk, as its settings say, with line ends normalised.

No function here holds more than one chunk, or one part between two separators.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.files.file_types import HEAD_BYTES
from firstlight.files.limits import DEFAULT_LIMITS, Limits
from firstlight.files.text_decoder import CHUNK_BYTES, Decoding, TextDecoder
from firstlight.files.text_lines import LineBoms

__all__ = ["CHUNK_BYTES", "decode_chunks", "split_stream"]


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
        settings: its encoding, and what to do with bad bytes and line ends.
        tally: counts the bad bytes, and files that are not read as the settings say.
        size: bytes per chunk.
        strip_bom: remove byte order marks even if line ends are kept, as in every format but plain text.

    Raises:
        CorpusError: it is not text, a byte is not in the encoding and ``on_bad_bytes`` is "error" (names file and
            offset), or more than 1 % of its bytes are bad.
    """

    def count_bad(n: int, where: str) -> None:
        tally.n_bad += n
        if where:
            tally.add_bad_bytes(where)

    how = Decoding(
        encoding=settings.encoding,
        setting="corpus.encoding={}",
        on_bad=settings.on_bad_bytes,
        on_bad_setting="corpus.on_bad_bytes=replace (or skip)",
        note=lambda what: tally.add_note(what, name),
        count_bad=count_bad,
    )
    decoder = TextDecoder(name, how, head_bytes=min(size, HEAD_BYTES))
    newlines = io.IncrementalNewlineDecoder(None, translate=True) if settings.newlines == "lf" else None
    boms = LineBoms() if newlines is not None or strip_bom else None
    pending_cr = False  # a CR that may be the first half of a CRLF is held back
    while True:
        data = file.read(size)
        text = decoder.decode(data)
        if newlines is not None and (pending_cr or "\r" in text):
            pending_cr = text.endswith("\r") if text else pending_cr
            text = newlines.decode(text, final=not data)
        if boms is not None:
            text = boms.remove(text)
        if text:
            yield text
        if not data:
            break
    if boms is not None and boms.n_within:
        tally.add_note("read without byte order marks within the text", name)


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
