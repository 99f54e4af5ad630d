"""HTML: the text that a reader would see."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from firstlight.corpus.decode import pieces
from firstlight.corpus.opening import opened
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.types import Document

_HIDDEN = {"script", "style", "head", "noscript", "template", "svg"}
_BLOCKS = {
    "p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "section", "article",
    "header", "footer", "table", "ul", "ol", "dd", "dt", "figcaption",
}  # fmt: skip


class _Visible(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self._hidden += tag in _HIDDEN
        self._pre += tag == "pre"
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        self._pre = max(0, self._pre - (tag == "pre"))
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            space = " " if data[:1].isspace() else ""
            end = " " if data[-1:].isspace() and data.strip() else ""
            self.parts.append(data if self._pre else space + " ".join(data.split()) + end)

    def text(self) -> str:
        lines = [line.strip() if not line.startswith(" " * 2) else line.rstrip() for line in "".join(self.parts).split("\n")]
        joined = "\n".join(lines)
        while "\n\n\n" in joined:
            joined = joined.replace("\n\n\n", "\n\n")
        return joined.strip()


def read_html(path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
    """Yield the page's visible text as one document, blocks on lines of their own."""
    parser = _Visible()
    with opened(path) as file:
        for piece in pieces(file, str(path), settings, tally):
            parser.feed(piece)
    parser.close()
    yield Document(parser.text(), str(path))
