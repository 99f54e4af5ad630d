"""Plain text and source code: a file is one document, streamed in pieces, or is split at lines.

A line, and a paragraph of ``blank-lines``, is held whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from firstlight.corpus.decode import parts, pieces
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.files.compression import open_compressed
from firstlight.types import Document


def read_text(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield the file as one document in pieces, or one document a paragraph or line, as ``text_split`` says."""
    with open_compressed(path) as file:
        yield from text_documents(file, str(path), settings, tally)


def text_documents(file: BinaryIO, name: str, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield the documents of an open text file; ``name`` is what sources and messages call it."""
    stream = pieces(file, name, settings, tally)
    if settings.text_split == "file":
        yield from as_one(stream, name)
    elif settings.text_split == "lines":
        for number, line in enumerate(parts(stream), start=1):
            yield Document(line, f"{name}:{number}")
    else:
        yield from _paragraphs(parts(stream), name)


def as_one(stream: Iterator[str], source: str) -> Iterator[Document]:
    """Yield the pieces of one document, each but the last marked as going on."""
    held = next(stream, None)
    for piece in stream:
        yield Document(held or "", source, continues=True)
        held = piece
    yield Document(held or "", source)


def _paragraphs(lines: Iterator[str], name: str) -> Iterator[Document]:
    start = 0
    paragraph: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line and not line.isspace():
            start = start if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield Document("\n".join(paragraph), f"{name}:{start}")
            paragraph = []
    if paragraph:
        yield Document("\n".join(paragraph), f"{name}:{start}")
