"""Split HTML into tags and text in linear time and constant memory, as the tokenizer of the WHATWG standard does.

``html.parser`` needs quadratic time for malformed tags and raises AssertionError for ``<![ if``; libraries that build a
tree hold the whole page, and also need quadratic time and memory for some. The attributes of tags are skipped. No
token is held: a tag, a comment or a script that never ends is skipped to the end of the page, as the standard says.
Source: html.spec.whatwg.org, section 13.2.5.
"""

import html
import re
from collections.abc import Callable
from typing import Protocol

_OPENING = re.compile(r"<[A-Za-z/!?]")
_SIMPLE_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,15})>")  # most tags; the others go through the states below
_NAME_END = re.compile(r"[\t\n\f\r />]")
_VALUE_END = re.compile(r"[\t\n\f\r >]")
_NOT_SPACE = re.compile(r"[^\t\n\f\r ]")
_IN_TAG_END = re.compile(r"[>=]")
_COMMENT_END = re.compile(r"--!?>")
_RAW_TEXT = {name: re.compile(rf"</(?={name}[\t\n\f\r />])", re.IGNORECASE) for name in ("script", "style")}
_MAX_NAME = 32  # no element has a longer name
_MAX_REFERENCE = 40
# Python refuses to convert a number of thousands of digits.
_LONG_REFERENCE = re.compile(r"&#(x?)([0-9a-f]{8,}+);?", re.IGNORECASE)


class HtmlHandler(Protocol):
    """Receives tags and text in the order of the page."""

    def start_tag(self, name: str) -> None:
        """Handle a start tag; ``name`` is in lower case."""
        ...

    def end_tag(self, name: str) -> None:
        """Handle an end tag, or the end of an element that closes itself."""
        ...

    def text(self, text: str) -> None:
        """Handle text, its character references not yet replaced; it may come in pieces, none within a reference."""
        ...


class HtmlTokenizer:
    """Tokenizes a page that comes in pieces of any size.

    Args:
        handler: receives the tags and the text.
    """

    def __init__(self, handler: HtmlHandler) -> None:
        self._handler = handler
        self._held = ""  # the end of the last piece, where a token may have started
        self._state: Callable[[str, int, bool], int] = self._in_text
        self._name, self._is_end, self._last = "", False, ""
        self._quote, self._raw = "", ""

    def feed(self, piece: str) -> None:
        """Tokenize the next piece."""
        self._run(self._held + piece, final=False)

    def close(self) -> None:
        """End the page."""
        self._run(self._held, final=True)

    def _run(self, page: str, *, final: bool) -> None:
        pos, n = 0, len(page)
        self._held = ""
        while pos < n:
            found = self._state(page, pos, final)
            if found < 0:  # more of the page is needed; the state says from where by ~found
                self._held = page[~found:]
                return
            pos = found

    def _in_text(self, page: str, pos: int, final: bool) -> int:
        if self._raw:
            end = _RAW_TEXT[self._raw].search(page, pos)
            if end is None:
                return len(page) if final else ~max(pos, len(page) - len(self._raw) - 2)
            self._raw = ""
            return self._open_tag(end.start() + 2, is_end=True)
        opening = _OPENING.search(page, pos)
        start = opening.start() if opening else len(page)
        if opening is None and not final:
            start = _complete_text(page, pos)
        if start > pos:
            self._handler.text(page[pos:start])
        if opening is None:
            return start if start == len(page) else ~start
        return self._open_markup(page, start, final)

    def _open_markup(self, page: str, start: int, final: bool) -> int:
        """Recognize what starts with ``<``; a longer look ahead than the page so far needs the next piece."""
        if simple := _SIMPLE_TAG.match(page, start):
            self._is_end, self._name, self._last = bool(simple[1]), simple[2], ""
            self._close_tag()
            return simple.end()
        kind = page[start + 1]
        if kind not in "/!?":
            return self._open_tag(start + 1, is_end=False)
        if len(page) < start + 4 and not final:
            return ~start
        following = page[start + 2 : start + 3]
        if kind == "/" and following.isascii() and following.isalpha():
            return self._open_tag(start + 2, is_end=True)
        if kind == "/" and not following:
            self._handler.text("</")
            return start + 2
        self._state = self._in_comment if page.startswith("<!--", start) else self._in_bogus_comment
        return start + 2

    def _open_tag(self, pos: int, *, is_end: bool) -> int:
        self._state, self._name, self._is_end, self._last = self._in_name, "", is_end, ""
        return pos

    def _in_name(self, page: str, pos: int, _final: bool) -> int:
        end = _NAME_END.search(page, pos)
        stop = end.start() if end else len(page)
        self._name = (self._name + page[pos : min(stop, pos + _MAX_NAME)])[:_MAX_NAME]
        if end:
            self._state = self._in_tag
        return stop

    def _in_tag(self, page: str, pos: int, _final: bool) -> int:
        end = _IN_TAG_END.search(page, pos)
        stop = end.start() if end else len(page)
        self._last = page[stop - 1] if stop > pos else self._last
        if end is None:
            return stop
        if end.group() == ">":
            self._close_tag()
        else:
            self._state, self._last = self._before_value, ""
        return stop + 1

    def _before_value(self, page: str, pos: int, _final: bool) -> int:
        start = _NOT_SPACE.search(page, pos)
        if start is None:
            return len(page)
        character = start.group()
        if character in "\"'":
            self._quote, self._state = character, self._in_quotes
            return start.end()
        self._state = self._in_tag if character == ">" else self._in_value
        return start.start()

    def _in_quotes(self, page: str, pos: int, _final: bool) -> int:
        end = page.find(self._quote, pos)
        if end < 0:
            return len(page)
        self._state = self._in_tag
        return end + 1

    def _in_value(self, page: str, pos: int, _final: bool) -> int:
        end = _VALUE_END.search(page, pos)
        stop = end.start() if end else len(page)
        self._last = page[stop - 1] if stop > pos else self._last
        if end:
            self._state = self._in_tag
        return stop

    def _close_tag(self) -> None:
        self._state = self._in_text
        name = self._name.lower()
        if self._is_end:
            self._handler.end_tag(name)
            return
        self._handler.start_tag(name)
        if self._last == "/":
            self._handler.end_tag(name)
        elif name in _RAW_TEXT:
            self._raw = name

    def _in_comment(self, page: str, pos: int, final: bool) -> int:
        end = _COMMENT_END.search(page, pos)
        if end is None:
            return len(page) if final else ~max(pos, len(page) - 3)
        self._state = self._in_text
        return end.end()

    def _in_bogus_comment(self, page: str, pos: int, _final: bool) -> int:
        end = page.find(">", pos)
        if end < 0:
            return len(page)
        self._state = self._in_text
        return end + 1


def replace_references(text: str) -> str:
    """Replace the character references of a text: ``&amp;``, ``&#20013;``."""
    if "&" not in text:
        return text
    return html.unescape(_LONG_REFERENCE.sub(_shorten, text) if "&#" in text else text)


def _shorten(reference: re.Match[str]) -> str:
    digits = reference[2].lstrip("0") or "0"
    return "\ufffd" if len(digits) > 7 else f"&#{reference[1]}{digits};"


def _complete_text(page: str, pos: int) -> int:
    """Return the end of the text that neither a tag nor a character reference may continue."""
    end = len(page) - page.endswith("<")
    reference = page.rfind("&", max(pos, end - _MAX_REFERENCE), end)
    is_open = reference >= 0 and not any(character in page[reference:end] for character in "; \t\n\f\r<")
    return reference if is_open else end
