"""JSON values one by one from text that comes in pieces, so that a huge list is never held whole."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.errors import CorpusError

_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = tuple(" \t\n\r,:]}")
_LONGEST_SIGN = 64  # no number, word or escape is longer in sane JSON


class Values:
    """A place in a JSON text: look at the next sign, take it, or take a whole value."""

    def __init__(self, stream: Iterator[str], path: Path) -> None:
        self._stream, self._path = stream, path
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._before, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """Return the next character that is no white space; at the end of the text, nothing."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more()

    def take(self, signs: str) -> str:
        """Take the next sign, which must be one of ``signs``.

        Raises:
            CorpusError: it is another.
        """
        sign = self.peek()
        if not sign or sign not in signs:
            raise self._error(f"Expecting {' or '.join(repr(s) for s in signs)}", self._at)
        self._at += 1
        return sign

    def value(self) -> Any:
        """Take a whole value.

        Raises:
            CorpusError: there is none.
        """
        while True:
            self.peek()
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_SIGN
                if self._ended or not cut:
                    raise self._error(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self._error(str(error), self._at) from error
            else:
                # "12" may be the beginning of 123, or of 12.5.
                if self._ended or self._text[end : end + 1] in _AFTER:
                    self._at = end
                    return value
                if end < len(self._text) - _LONGEST_SIGN:
                    raise self._error("Extra data", end)
            self._more()

    def entries(self) -> Iterator[Any]:
        """Take a list, one entry at a time."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def members(self) -> Iterator[str]:
        """Take an object, one key at a time; whoever asks for the next key has taken the value of the last."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                self.take('"')
            key = self.value()
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def _more(self) -> None:
        """Read on, at least as much again as is held, so that a long value is not parsed too often."""
        self._before += self._at
        held = [self._text[self._at :]]
        wanted, got = len(held[0]), 0
        self._at = 0
        while got <= wanted and not self._ended:
            piece = next(self._stream, "")
            self._ended = not piece
            held.append(piece)
            got += len(piece)
        self._text = "".join(held)

    def _error(self, problem: str, at: int) -> CorpusError:
        found = repr(self._text[at : at + 30]) if at < len(self._text) else "the end of the file"
        return CorpusError(f"is no JSON: {problem}", where=f"{self._path}: character {self._before + at}", found=found)
