"""Reader of plain text and source code: a file is one document, streamed in pieces, or is split at lines.

A line, or a paragraph of ``blank-lines``, is held in memory whole.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.files import Limits
from firstlight.files.compression import open_compressed
from firstlight.files.json_stream import is_json_lines
from firstlight.types import Document

_HTML = re.compile(r"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_CODE = (
    ".py .pyi .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .js .ts .jsx .tsx .rb .php .pl .lua .r .jl .sh .sql"
    " .swift .hs .ml .tex .toml .yaml .yml .css"
)


class TextReader:
    """Plain text and source code: one document per file, paragraph or line, as ``text_split`` says."""

    suffixes = (".txt", ".text", ".md", ".rst", ".tokens", *_CODE.split())
    extra: str | None = None

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents; one that is a whole file comes in pieces."""
        with open_compressed(path, limits=settings.read_limits) as file:
            yield from text_documents(file, str(path), settings, tally)


def text_documents(file: BinaryIO, name: str, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield the documents of an open text file; ``name`` is its name in sources and messages."""
    limits = settings.read_limits
    stream = _note_records(decode_chunks(file, name, settings, tally), name, tally)
    if settings.text_split == "file":
        yield from as_one_document(stream, name)
    elif settings.text_split == "lines":
        for number, line in enumerate(split_stream(stream, where=name, limits=limits), start=1):
            yield Document(line, f"{name}:{number}")
    else:
        yield from _paragraphs(split_stream(stream, where=name, limits=limits), name, limits)


def _note_records(stream: Iterator[str], name: str, tally: Tally) -> Iterator[str]:
    first = next(stream, "")
    if is_json_lines(first):
        tally.add_note("JSON lines, which are read as plain text; in a file named .jsonl a field of each is read", name)
    elif _HTML.match(first) is not None:
        tally.add_note("HTML, whose tags are read as text; of a file named .html the visible text is read", name)
    return chain([first] if first else [], stream)


def as_one_document(stream: Iterator[str], source: str) -> Iterator[Document]:
    """Yield the pieces of one document, each but the last marked as continued."""
    held = next(stream, None)
    for piece in stream:
        yield Document(held or "", source, continues=True)
        held = piece
    yield Document(held or "", source)


def _paragraphs(lines: Iterator[str], name: str, limits: Limits) -> Iterator[Document]:
    start = size = 0
    paragraph: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line and not line.isspace():
            start = start if paragraph else number
            paragraph.append(line)
            size += len(line) + 1
            limits.check_size(size, "the paragraph", f"{name}:{start}")
        elif paragraph:
            yield Document("\n".join(paragraph), f"{name}:{start}")
            paragraph, size = [], 0
    if paragraph:
        yield Document("\n".join(paragraph), f"{name}:{start}")
