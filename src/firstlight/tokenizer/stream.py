"""Ids to text one by one, for text that is shown while it is written."""

import codecs
from collections.abc import Callable

_WINDOW, _KEPT = 64, 16


class StreamDecoder:
    """Turns ids into text one by one, holding back bytes that are no whole character yet.

    The pieces, with what ``flush`` gives, are together the text that ``Tokenizer.decode`` gives for all ids.

    Args:
        to_bytes: ids to bytes, where the bytes of ids are simply joined; otherwise None.
        to_text: ids to text, where they are not: it is given the last few ids again and again.
        is_open: whether an id's text may change with what follows it, such as one byte of a character.
        special: ids that are left out of the text.
    """

    def __init__(
        self,
        to_bytes: Callable[[list[int]], bytes] | None,
        to_text: Callable[[list[int]], str],
        is_open: Callable[[int], bool],
        special: set[int],
    ) -> None:
        self._to_bytes, self._to_text, self._is_open, self._special = to_bytes, to_text, is_open, special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._recent: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        """Take one id; return the text that is sure now."""
        if self._to_bytes is not None:
            return self._utf8.decode(self._to_bytes([token]))
        if token in self._special:
            return ""
        self._recent.append(token)
        return "" if self._is_open(token) else self._new()

    def flush(self) -> str:
        """Return what is left, broken characters as U+FFFD."""
        return self._utf8.decode(b"", final=True) if self._to_bytes is not None else self._new()

    def _new(self) -> str:
        text = self._to_text(self._recent)
        new = text[len(self._shown) :]
        self._shown = text
        if len(self._recent) > _WINDOW:
            # Only neighbours decide how a token is written, so a few of them stand for all before.
            edges = range(len(self._recent) - _KEPT, 0, -1)
            self._recent = self._recent[next((i for i in edges if not self._is_open(self._recent[i - 1])), 0) :]
            self._shown = self._to_text(self._recent)
        return new
