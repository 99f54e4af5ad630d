"""One text while it is written: ids become text, and it ends at end-of-text or at a stop text; or ids alone."""

from collections.abc import Collection, Sequence
from typing import Literal

from firstlight.tokenizer import Tokenizer

_CONTEXT = 16  # last tokens of a prompt that may decide how the first new one is written


class TextStreamer:
    """A text that grows by tokens.

    What may be the beginning of a stop text is held back until it is sure. A text ends with the stop that is
    complete first, wherever tokens begin and end.

    Args:
        tokenizer: of its ids.
        prompt: ids that it goes on from; they decide whether a word-level token is written with a space before it.
        stops: texts that end it; they are not part of it.
        ends: tokens that end it.

    Attributes:
        ids: tokens written, the last of a stop text included, one of ``eos_ids`` not.
        ended_by: end-of-text, a stop text, or None while it grows.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str], eos_ids: Collection[int]
    ) -> None:
        self._decoder = tokenizer.decoder()
        self._known, self._eos_ids = tokenizer.vocab_size, eos_ids
        self._stops = [stop for stop in stops if stop]
        self._held, self._pieces, self._taken = "", list[str](), 0
        self.ids: list[int] = []
        self.finish_reason: Literal["end", "stop"] | None = None
        for token in prompt[-_CONTEXT:]:
            self._decoder.push(token)
        self._decoder.flush()

    @property
    def text(self) -> str:
        """What was written so far and is sure."""
        return "".join(self._pieces)

    def push(self, token: int) -> None:
        """Take the next token."""
        assert self.finish_reason is None, "an ended text takes no more"
        if token in self._eos_ids:
            self.finish_reason = "end"
            return
        self.ids.append(token)
        # A model may have more ids than its tokenizer, to make its matrices even: they stand for nothing.
        if token < self._known:
            self._add(self._decoder.push(token))

    def finish(self) -> None:
        """Add what was held back; nothing after a stop text."""
        if self.finish_reason != "stop":
            self._add(self._decoder.flush())
            self._pieces.append(self._held)
            self._held = ""

    def take(self) -> str:
        """Return what has become sure since the last call."""
        new, self._taken = self._pieces[self._taken :], len(self._pieces)
        return "".join(new)

    def _add(self, new: str) -> None:
        text = self._held + new
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.finish_reason, self._held = "stop", ""
            self._pieces.append(text[: min(found)[1]])
            return
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        self._pieces.append(text[: len(text) - held])


class IdStreamer:
    """Ids that are no text while they are written; one of ``eos_ids`` ends them, and is none of them."""

    def __init__(self, eos_ids: Collection[int]) -> None:
        self._eos_ids = eos_ids
        self.ids: list[int] = []
        self.finish_reason: Literal["end"] | None = None

    def push(self, token: int) -> None:
        """Take the next id."""
        if token in self._eos_ids:
            self.finish_reason = "end"
        else:
            self.ids.append(token)

    def finish(self) -> None:
        """Nothing is held back."""
