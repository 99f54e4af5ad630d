"""Parse JSON from a stream of text, one value at a time, so that a huge list is never held whole."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.errors import CorpusError, Failure
from firstlight.files.field_text import WrittenFloat
from firstlight.files.limits import DEFAULT_LIMITS, Limits

_WHITE_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER_VALUE = tuple(" \t\n\r,:]}")
_DECODER = json.JSONDecoder(parse_float=WrittenFloat)  # one for all values: json.loads would build one for each
_SAMPLED_LINES = 8
_MAX_TOKEN = 64  # characters; no number, literal or escape is longer in sane JSON


def parse_json(text: str | bytes, where: object, *, error: type[Failure] = CorpusError) -> Any:
    """Parse a JSON text that comes from outside.

    Raises:
        Failure: of the class ``error``: it is not valid JSON, nested too deeply, or has a number of too many digits.
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode(json.detect_encoding(text)))
    except (ValueError, RecursionError) as refused:
        shown = text[:60] if isinstance(text, str) else text[:60].decode("utf-8", "replace")
        raise error(f"is not valid JSON: {json_problem(refused)}", where=where, found=repr(shown)) from refused


def is_json_lines(start: str) -> bool:
    """Whether the first lines of a text are JSON objects, one a line, so that it is more likely records than text.

    Args:
        start: the text, or enough of it for two lines.
    """
    lines = [line for line in start.split("\n", _SAMPLED_LINES)[:_SAMPLED_LINES] if not line.isspace() and line][:2]
    try:
        return bool(lines) and all(line.startswith("{") and isinstance(parse_json(line, ""), dict) for line in lines)
    except CorpusError:
        return False


def json_problem(refused: Exception) -> str:
    """Say what is wrong with a JSON text, from the exception of its parser."""
    if isinstance(refused, RecursionError):
        return "nested too deeply"
    return "a number has too many digits" if "int_max_str_digits" in str(refused) else str(refused)


class JsonStream:
    """A position in JSON text: look at the next character, or parse the next value.

    Args:
        stream: the text, in pieces of any size.
        path: its name in messages.
        limits: bound the length of a value.
        error: raised for text that is not JSON.
    """

    def __init__(
        self,
        stream: Iterator[str],
        path: Path,
        *,
        limits: Limits = DEFAULT_LIMITS,
        error: type[Failure] = CorpusError,
    ) -> None:
        self._stream, self._path, self._limits, self._error = stream, path, limits, error
        self._decode = _DECODER.raw_decode
        self._text, self._pos, self._consumed, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """Return the next character that is not white space, without consuming it; "" at the end of the text."""
        while True:
            match = _WHITE_SPACE.match(self._text, self._pos)
            self._pos = match.end() if match else self._pos
            if self._pos < len(self._text):
                return self._text[self._pos]
            if self._ended:
                return ""
            self._fill()

    def expect(self, characters: str) -> str:
        """Consume the next character, which must be one of ``characters``.

        Raises:
            Failure: it is another one.
        """
        character = self.peek()
        if not character or character not in characters:
            raise self._invalid(f"Expecting {' or '.join(map(repr, characters))}", self._pos)
        self._pos += 1
        return character

    def value(self) -> Any:
        """Parse a whole value.

        Raises:
            Failure: there is none.
        """
        while True:
            self.peek()
            try:
                value, end = self._decode(self._text, self._pos)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _MAX_TOKEN
                if self._ended or not cut:
                    raise self._invalid(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self._invalid(json_problem(error), self._pos) from error
            else:
                # "12" may be the start of 123, or of 12.5.
                if self._ended or self._text[end : end + 1] in _AFTER_VALUE:
                    self._check_size(end - self._pos)
                    self._pos = end
                    return value
                if end < len(self._text) - _MAX_TOKEN:
                    raise self._invalid("Extra data", end)
            self._fill()

    def iter_items(self) -> Iterator[Any]:
        """Parse an array, one element at a time."""
        self.expect("[")
        if self.peek() == "]":
            self.expect("]")
            return
        while True:
            yield self.value()
            if self.expect(",]") == "]":
                return

    def iter_keys(self) -> Iterator[str]:
        """Parse an object, one key at a time; the caller parses each value before it asks for the next key."""
        self.expect("{")
        if self.peek() == "}":
            self.expect("}")
            return
        while True:
            if self.peek() != '"':
                self.expect('"')
            key = self.value()
            self.expect(":")
            yield key
            if self.expect(",}") == "}":
                return

    def _fill(self) -> None:
        """Read at least as much text again as is held, so that a long value is not parsed too often."""
        self._consumed += self._pos
        held = [self._text[self._pos :]]
        wanted, got = len(held[0]), 0
        self._check_size(wanted)
        self._pos = 0
        while got <= wanted and not self._ended:
            piece = next(self._stream, "")
            self._ended = not piece
            held.append(piece)
            got += len(piece)
        self._text = "".join(held)

    def _check_size(self, n: int) -> None:
        where = f"{self._path}: character {self._consumed}"
        self._limits.check_size(n, "the JSON value", where, error=self._error)

    def _invalid(self, problem: str, pos: int) -> Failure:
        found = repr(self._text[pos : pos + 30]) if pos < len(self._text) else "the end of the file"
        where = f"{self._path}: character {self._consumed + pos}"
        return self._error(f"is not valid JSON: {problem}", where=where, found=found)
