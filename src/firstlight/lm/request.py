"""Requests of the decoding engine, and their state while they run."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from firstlight.lm.sampling import GenerateSettings, random_numbers

FinishReason = Literal["eos", "stop", "length", "cancelled", "error"]


class TokenSink(Protocol):
    """What takes the tokens of a request, and may end it."""

    finish_reason: Literal["eos", "stop"] | None

    def put(self, token: int) -> None:
        """Add the next token."""

    def end(self) -> None:
        """Add what was held back."""


@dataclass(eq=False, slots=True)
class Request:
    """A prompt that is to be continued.

    Attributes:
        prompt: ids, at least one.
        settings: of generation; ``num_samples`` and ``stop`` are left to others.
        sink: gets the tokens.
        random_stream: its random numbers depend on the seed and this number.
        below: sample among the ids below this one only.
        with_logprobs: whether ``logprobs`` are computed.
        logprobs: of the sampled tokens at the temperature (1 where it is 0), before filters, in nats.
        finish_reason: why it has ended: end-of-text, a stop string, the limit of tokens, ``cancel``, or an error, which
            is logits that are not finite or an exception of the sink; None before.
    """

    prompt: Sequence[int]
    settings: GenerateSettings
    sink: TokenSink
    random_stream: int = 0
    below: int | None = None
    with_logprobs: bool = False
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Running:
    """The state of a request that has a cache.

    Attributes:
        ids: of prompt and continuation.
        n_prompt: tokens of the prompt.
        start: index in ``ids`` at which the context begins.
        n_cached: positions of the context whose keys and values are certain.
        left: tokens to go at most.
        capacity: positions of the cache.
        cache: of its decoder.
        prompt_logits: what the first token is sampled from, once the prompt is read.
        has_begun: whether its prompt is being read, or was copied.
        has_slid: whether the context has lost its beginning.
    """

    def __init__(self, request: Request, block_size: int) -> None:
        self.request = request
        self.ids = list(request.prompt)
        self.n_prompt = len(self.ids)
        self.start = max(0, self.n_prompt - block_size)  # of the context
        self.n_cached = 0  # of the context
        self.left = request.settings.max_new_tokens
        self.capacity = min(block_size, self.n_prompt - self.start + self.left - 1)
        self.cache: Any = None
        self.prompt_logits: Tensor | None = None
        self.has_begun = self.has_slid = False
        self._random = random_numbers(request.settings.seed, request.random_stream)
        self._uniforms = deque[float]()

    @property
    def n_context(self) -> int:
        """Tokens of the context, cached or not."""
        return len(self.ids) - self.start

    @property
    def is_decoding(self) -> bool:
        """Whether all but the last token are cached."""
        return self.n_cached == self.n_context - 1 and len(self.ids) > self.n_prompt

    def has_read(self, other: "Running") -> bool:
        """Whether the prompt of another request is this one's, and is cached or being read."""
        if not self.has_begun or self.has_slid or self.start != other.start:
            return False
        return self.n_prompt == other.n_prompt and self.ids[: self.n_prompt] == other.ids[: self.n_prompt]

    def uniforms(self, n: int) -> list[float]:
        """Return the random numbers of the next ``n`` tokens."""
        while len(self._uniforms) < n:
            self._uniforms.append(self._random.random())
        return [self._uniforms[i] for i in range(n)]

    def append(self, token: int) -> None:
        """Add a token."""
        if self._uniforms:
            self._uniforms.popleft()
        self.ids.append(token)
        self.left -= 1
