"""Streamers: generated ids become text as they arrive, until end-of-text or a stop string."""

from collections.abc import Collection, Sequence
from typing import Literal

from firstlight.tokenizer import Tokenizer


class TextStreamer:
    """Text that grows by tokens.

    What may be the start of a stop string is held back until that is decided. Generation stops at the stop string that
    is complete first, wherever token boundaries are.

    Args:
        tokenizer: of the ids.
        prompt: ids that the text continues; they decide whether a word-level token is preceded by a space.
        stop: strings that end the text, and are not part of it.
        eos_ids: tokens that end it.

    Attributes:
        ids: generated tokens, with the last one of a stop string, without those of ``eos_ids``.
        finish_reason: ``eos``, ``stop``, or None while the text grows.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], eos_ids: Collection[int]
    ) -> None:
        self._decoder = tokenizer.stream_decoder()
        self._vocab_size, self._eos_ids = tokenizer.vocab_size, eos_ids
        self._stop = [text for text in stop if text]
        self._pending, self._pieces, self._n_taken = "", list[str](), 0
        self.ids: list[int] = []
        self.finish_reason: Literal["eos", "stop"] | None = None
        self._decoder.start_after(prompt)

    @property
    def text(self) -> str:
        """The text so far, without what is held back."""
        return "".join(self._pieces)

    def put(self, token: int) -> None:
        """Add the next token."""
        assert self.finish_reason is None, "a finished text takes no tokens"
        if token in self._eos_ids:
            self.finish_reason = "eos"
            return
        self.ids.append(token)
        # A model may have more ids than its tokenizer, which pad its matrices and mean nothing.
        if token < self._vocab_size:
            self._add(self._decoder.push(token))

    def end(self) -> None:
        """Add what was held back, unless a stop string ended the text; not the first bytes of a character."""
        if self.finish_reason != "stop":
            self._add(self._decoder.flush(keep_incomplete=False))
            self._pieces.append(self._pending)
            self._pending = ""

    def take(self) -> str:
        """Return the text that is new since the last call."""
        new, self._n_taken = self._pieces[self._n_taken :], len(self._pieces)
        return "".join(new)

    def _add(self, new: str) -> None:
        text = self._pending + new
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            self.finish_reason, self._pending = "stop", ""
            self._pieces.append(text[: min(found)[1]])
            return
        n = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._pending = text[len(text) - n :]
        self._pieces.append(text[: len(text) - n])


class IdStreamer:
    """Ids of sequences that are not text; one of ``eos_ids`` ends them, and is not among them."""

    def __init__(self, eos_ids: Collection[int]) -> None:
        self._eos_ids = eos_ids
        self.ids: list[int] = []
        self.finish_reason: Literal["eos", "stop"] | None = None

    def put(self, token: int) -> None:
        """Add the next id."""
        if token in self._eos_ids:
            self.finish_reason = "eos"
        else:
            self.ids.append(token)

    def end(self) -> None:
        """Do nothing: no id is held back."""
