"""Decode ids to text one by one, for text that is streamed while it is generated."""

import codecs
from collections.abc import Callable, Sequence
from itertools import islice, takewhile

_MAX_RECENT, _KEEP_RECENT = 64, 16  # ids


class StreamDecoder:
    """Decodes ids one by one, holding back the bytes of incomplete characters.

    The concatenated results of ``push`` and ``flush`` equal ``Tokenizer.decode`` of all ids. Bytes that are not UTF-8
    become U+FFFD as there: those that cannot become a character, whatever follows. ``flush`` can leave out the bytes of
    a character that the last ids begin.

    Args:
        to_bytes: decodes ids to bytes, where decoding is a plain concatenation; otherwise None.
        to_text: decodes ids to text, otherwise: it is called with the last few ids again and again.
        byte_of: returns the byte that an id stands for, whose text may change with the next id; None for other ids.
        special_ids: ids that are skipped.
    """

    def __init__(
        self,
        to_bytes: Callable[[list[int]], bytes] | None,
        to_text: Callable[[list[int]], str],
        byte_of: Callable[[int], int | None],
        special_ids: frozenset[int],
    ) -> None:
        self._to_bytes, self._to_text = to_bytes, to_text
        self._byte_of, self._special_ids = byte_of, special_ids
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._recent: list[int] = []
        self._emitted = ""

    def start_after(self, ids: Sequence[int]) -> None:
        """Start with a text that follows ``ids``, which may decide whether a space precedes it.

        Ids of single bytes are left out: those before a text are whole characters, and a run of them is decoded as a
        whole, so one that begins within a character would spoil the first bytes of the text.
        """
        before = islice((i for i in reversed(ids) if not self._is_incomplete(i)), _KEEP_RECENT)
        for token_id in reversed(list(before)):
            self.push(token_id)
        self.flush()

    def push(self, token_id: int) -> str:
        """Add one id; return the text that is now complete."""
        if self._to_bytes is not None:
            return self._utf8.decode(self._to_bytes([token_id]))
        if token_id in self._special_ids:
            return ""
        self._recent.append(token_id)
        return "" if self._is_incomplete(token_id) else self._new_text()

    def flush(self, *, keep_incomplete: bool = True) -> str:
        """Return the remaining text.

        Args:
            keep_incomplete: whether the bytes of a character that is incomplete become U+FFFD, or are left out.
        """
        if self._to_bytes is not None:
            if not keep_incomplete:
                self._utf8.reset()
            return self._utf8.decode(b"", final=True)
        if not keep_incomplete and (n := self._n_incomplete()):
            del self._recent[-n:]
        return self._new_text()

    def _n_incomplete(self) -> int:
        """Count the last ids that are bytes of an incomplete character."""
        run = list(takewhile(self._is_incomplete, reversed(self._recent)))
        self._utf8.reset()
        self._utf8.decode(bytes(byte for i in reversed(run) if (byte := self._byte_of(i)) is not None))
        return len(self._utf8.getstate()[0])

    def _is_incomplete(self, token_id: int) -> bool:
        return self._byte_of(token_id) is not None

    def _new_text(self) -> str:
        text = self._to_text(self._recent)
        new = text[len(self._emitted) :]
        self._emitted = text
        if len(self._recent) > _MAX_RECENT:
            # How a token is decoded depends on its neighbours only, so a few recent ids are enough context.
            edges = range(len(self._recent) - _KEEP_RECENT, 0, -1)
            self._recent = self._recent[next((i for i in edges if not self._is_incomplete(self._recent[i - 1])), 0) :]
            self._emitted = self._to_text(self._recent)
        return new
