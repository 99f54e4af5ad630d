"""HTML: the text that a reader would see, passed on as the page goes by."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from firstlight.corpus.decode import pieces
from firstlight.corpus.readers.text import as_one
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
# HTML's white space; an ideographic or no-break space is seen.
_SPACES = str.maketrans("\t\n\r\f", "    ")
_RUN = re.compile("  +")


def read_html(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield the page's visible text as one document: blocks on lines of their own, a blank line around paragraphs."""
    with open_compressed(path) as file:
        yield from as_one(_visible(pieces(file, str(path), settings, tally, mark_goes=True)), str(path))


def _visible(stream: Iterator[str]) -> Iterator[str]:
    page = _Page()
    for piece in stream:
        page.feed(piece)
        if text := page.written():
            yield text
    page.close()
    if text := page.written():
        yield text


class _Page(HTMLParser):
    """Writes visible text; white space is held until the text after it comes, since what follows decides its kind."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._begun = False
        self._hidden = self._pre = 0
        self._newlines, self._space = 0, ""
        self._at_pre = False  # a line end right after <pre> is no text

    def written(self) -> str:
        """Return what was written since the last call."""
        text = "".join(self._out)
        self._out = []
        return text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._hidden += tag in _HIDDEN
        self._at_pre = tag == "pre"
        self._pre += self._at_pre
        if tag == "br":
            self._newlines += 1
        elif tag in _CELLS:
            self._space = "\t"
        self._border(tag)

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        self._pre = max(0, self._pre - (tag == "pre"))
        self._border(tag)

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._pre:
            data = data.removeprefix("\n") if self._at_pre else data
            self._at_pre = False
            begin = len(data) - len(data.lstrip("\n"))
            text = data[begin:].rstrip("\n")
            self._newlines += begin
            self._write(text)
            self._newlines += len(data) - begin - len(text)
            return
        text = data.translate(_SPACES)
        text = _RUN.sub(" ", text) if "  " in text else text
        if text.startswith(" "):
            self._space = self._space or " "
        self._write(text.strip(" "))
        if text.endswith(" "):
            self._space = self._space or " "

    def _border(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._newlines = 2
        elif tag in _BLOCKS:
            self._newlines = max(self._newlines, 1)

    def _write(self, text: str) -> None:
        if not text:
            return
        if self._begun:
            most = self._newlines if self._pre else min(self._newlines, 2)
            self._out.append("\n" * most or self._space)
        self._out.append(text)
        self._begun, self._newlines, self._space = True, 0, ""
