"""Reader of HTML: the visible text, streamed while the page is parsed."""

import re
from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus.decode import decode_chunks
from firstlight.corpus.readers.html_tokens import HtmlTokenizer, replace_references
from firstlight.corpus.readers.text import as_one_document
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.files.compression import open_compressed
from firstlight.types import Document

_HIDDEN = {"script", "style", "title", "noscript", "template", "svg", "iframe", "object"}
_PARAGRAPHS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "figure", "hr"}
_BLOCKS = {
    "div",
    "li",
    "tr",
    "section",
    "article",
    "header",
    "footer",
    "main",
    "nav",
    "aside",
    "table",
    "ul",
    "ol",
    "dl",
    "dd",
    "dt",
    "figcaption",
    "caption",
    "form",
    "fieldset",
    "address",
    "details",
    "summary",
    "body",
    "option",
}
_CELLS = {"td", "th"}
# HTML's white space; an ideographic or no-break space is visible text.
_SPACES = str.maketrans("\t\n\r\f", "    ")
_RUN = re.compile("  +")


class HtmlReader:
    """HTML: the visible text as one document, blocks on lines of their own, a blank line around paragraphs."""

    suffixes = (".html", ".htm")
    extra: str | None = None

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the document, in pieces."""
        with open_compressed(path, limits=settings.read_limits) as file:
            text = _visible(decode_chunks(file, str(path), settings, tally, strip_bom=True))
            yield from as_one_document(text, str(path))


def _visible(stream: Iterator[str]) -> Iterator[str]:
    extractor = _TextExtractor()
    page = HtmlTokenizer(extractor)
    for piece in stream:
        page.feed(piece)
        if text := extractor.take_text():
            yield text
    page.close()
    if text := extractor.take_text():
        yield text


class _TextExtractor:
    """Collects visible text; white space is held back until the next text, which decides its kind."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._started = False
        self._hidden = self._pre = 0
        self._newlines, self._space = 0, ""
        self._after_pre = False  # a line break right after <pre> is not text

    def take_text(self) -> str:
        """Return the text collected since the last call."""
        text = "".join(self._out)
        self._out = []
        return text

    def start_tag(self, name: str) -> None:
        """Handle a start tag."""
        self._hidden += name in _HIDDEN
        self._after_pre = name == "pre"
        self._pre += self._after_pre
        if name == "br":
            self._newlines += 1
        elif name in _CELLS:
            self._space = "\t"
        self._break_line(name)

    def end_tag(self, name: str) -> None:
        """Handle an end tag."""
        self._hidden = max(0, self._hidden - (name in _HIDDEN))
        self._pre = max(0, self._pre - (name == "pre"))
        self._break_line(name)

    def text(self, text: str) -> None:
        """Handle text."""
        if self._hidden:
            return
        text = replace_references(text)
        if self._pre:
            text = text.removeprefix("\n") if self._after_pre else text
            self._after_pre = False
            start = len(text) - len(text.lstrip("\n"))
            visible = text[start:].rstrip("\n")
            self._newlines += start
            self._write(visible)
            self._newlines += len(text) - start - len(visible)
            return
        text = text.translate(_SPACES)
        text = _RUN.sub(" ", text) if "  " in text else text
        if text.startswith(" "):
            self._space = self._space or " "
        self._write(text.strip(" "))
        if text.endswith(" "):
            self._space = self._space or " "

    def _break_line(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._newlines = 2
        elif tag in _BLOCKS:
            self._newlines = max(self._newlines, 1)

    def _write(self, text: str) -> None:
        if not text:
            return
        if self._started:
            newlines = self._newlines if self._pre else min(self._newlines, 2)
            self._out.append("\n" * newlines or self._space)
        self._out.append(text)
        self._started, self._newlines, self._space = True, 0, ""
