"""Plain text and source code: a file is one document, streamed in pieces, or is split at lines."""

from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus.decode import pieces
from firstlight.corpus.opening import opened
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.types import Document


def read_text(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield the file as one document in pieces, or one document a paragraph or line, as ``text_split`` says."""
    with opened(path) as file:
        stream = pieces(file, str(path), settings, tally)
        if settings.text_split == "file":
            yield from as_one(stream, str(path))
        else:
            yield from _split(stream, path, blank=settings.text_split == "blank-lines")


def as_one(stream: Iterator[str], source: str) -> Iterator[Document]:
    """Yield the pieces of one document, each but the last marked as going on."""
    held = next(stream, None)
    for piece in stream:
        yield Document(held or "", source, continues=True)
        held = piece
    yield Document(held or "", source)


def _split(stream: Iterator[str], path: Path, *, blank: bool) -> Iterator[Document]:
    number, start, held = 0, 1, ""
    paragraph: list[str] = []
    for piece in _and_end(stream):
        *lines, held = (held + piece).split("\n")
        for line in lines:
            number += 1
            if not blank:
                yield Document(line, f"{path}:{number}")
            elif line.strip():
                start = start if paragraph else number
                paragraph.append(line)
            elif paragraph:
                yield Document("\n".join(paragraph), f"{path}:{start}")
                paragraph = []
    if paragraph:
        yield Document("\n".join(paragraph), f"{path}:{start}")


def _and_end(stream: Iterator[str]) -> Iterator[str]:
    """Close the last line, so that it is seen as one."""
    last = "\n"
    for piece in stream:
        last = piece
        yield piece
    if not last.endswith("\n"):
        yield "\n"
