"""The decoding engine: requests join and leave at each step, prompts are read beside running requests.

A step runs one new token of each running request, and the next pieces of prompts, through the model. What a request
gets does not depend on the others: its random numbers are its own, its prompt is read in pieces that depend on its
length only, and the decoder computes each row as if it were alone. Requests with a common prefix compute it once.

A context that reaches the block size goes on from its last half, which is read anew: one such pass every half block,
instead of one for each token, which an exact sliding window needs with absolute positions.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstlight import progress
from firstlight.lm.sampling import GenerateSettings, random_stream, sample_tokens, token_logprob
from firstlight.model import GPT
from firstlight.model.decoders import Decoder, NativeDecoder, Segment, new_decoder
from firstlight.signals import is_training

CHUNK = 128  # tokens of a prompt that are read in one step, so that running requests need not wait longer
_MIN_SHARED = 8  # tokens of a common prefix that are worth a copy
_NGRAMS = (3, 2)  # lengths of what prompt lookup searches for

FinishReason = Literal["eos", "stop", "length", "cancelled"]


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
        stream: its random numbers depend on the seed and this number.
        below: sample among the ids below this one only.
        with_logprobs: whether ``logprobs`` are computed.
        logprobs: of the sampled tokens at the temperature (1 where it is 0), before filters, in nats.
        finish_reason: why it has ended: end-of-text, a stop string, the limit of tokens, ``cancel``; None before.
    """

    prompt: Sequence[int]
    settings: GenerateSettings
    sink: TokenSink
    stream: int = 0
    below: int | None = None
    with_logprobs: bool = False
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class _Running:
    """The state of a request that has a cache."""

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
        self._random = random_stream(request.settings.seed, request.stream)
        self._uniforms = deque[float]()

    @property
    def n_context(self) -> int:
        return len(self.ids) - self.start

    @property
    def is_decoding(self) -> bool:
        """Whether all but the last token are cached."""
        return self.n_cached == self.n_context - 1 and len(self.ids) > self.n_prompt

    def uniforms(self, n: int) -> list[float]:
        """Return the random numbers of the next ``n`` tokens."""
        while len(self._uniforms) < n:
            self._uniforms.append(self._random.random())
        return [self._uniforms[i] for i in range(n)]

    def append(self, token: int) -> None:
        if self._uniforms:
            self._uniforms.popleft()
        self.ids.append(token)
        self.left -= 1


class _Work(NamedTuple):
    """What a request runs in a step; the last tokens of the segment are the draft."""

    running: _Running
    segment: Segment
    draft: list[int]


class _Result(NamedTuple):
    """The logits that a request samples from: of one token, and of one after each token of the draft."""

    running: _Running
    logits: Float[Tensor, "n V"]
    draft: list[int]


class DecodingEngine:
    """Continues prompts; one thread may use it at a time.

    Args:
        model: in any mode, which is restored; its weights may change between requests, not be replaced.
        max_batch: requests that run at once.
        max_cache_bytes: memory for keys and values; one request may need more.
        native: as of ``new_decoder``.
        n_kept: finished requests whose keys and values are kept for prompts that begin with the same tokens.

    Attributes:
        decoder: runs the model.
    """

    def __init__(
        self,
        model: GPT,
        *,
        max_batch: int = 64,
        max_cache_bytes: int = 1 << 30,
        native: bool | None = None,
        n_kept: int = 0,
    ) -> None:
        config = model.config
        self.decoder: Decoder = new_decoder(model, native=native)
        self._block_size, self._max_batch, self._n_kept = config.block_size, max_batch, n_kept
        element = 4 if not self.decoder.pieces_matter else next(model.parameters()).element_size()
        position_bytes = 2 * config.n_layer * config.kv_heads * config.head_dim * element
        self._max_positions = max_cache_bytes // position_bytes
        self._waiting = deque[Request]()
        self._running: list[_Running] = []
        self._kept = deque[_Running]()
        self._notices = set[str]()

    def add(self, request: Request) -> None:
        """Add a request, which starts when there is room for it."""
        assert request.prompt, "a prompt has at least one token"
        if request.settings.prompt_lookup_num_tokens and self.decoder.pieces_matter:
            self._notice("prompt lookup has no effect: it needs the decoder in C++")
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        """End a request now; what it has stays."""
        if request in self._waiting:
            self._waiting.remove(request)
        for running in self._running:
            if running.request is request:
                self._leave(running)
                break
        if request.finish_reason is None:
            request.finish_reason = "cancelled"
            request.sink.end()

    @property
    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self._waiting or self._running)

    def run(self) -> Iterator[list[Request]]:
        """Yield the requests that got a token, step by step, until all have ended."""
        while self.has_unfinished:
            yield self.step()

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Run the model once; return the requests that got a token.

        Raises:
            CheckpointError: the logits of a request are not finite.
        """
        if not isinstance(self.decoder, NativeDecoder):
            return self._step()
        # It has threads of its own; torch's, which spin for a while after each operator, would take their cores.
        self.decoder.threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._step()
        finally:
            torch.set_num_threads(self.decoder.threads)

    def _step(self) -> list[Request]:
        self._admit()
        work, results, n_read = list[_Work](), list[_Result](), 0
        for running in self._running:
            if running.is_decoding:
                work.append(self._next_tokens(running))
            elif n_read < CHUNK and self._share(running):
                if running.prompt_logits is not None and not running.has_slid:
                    results.append(_Result(running, running.prompt_logits, []))
                else:
                    work.append(self._next_piece(running))
                    n_read += len(work[-1].segment.ids)
        if work:
            results += self._split(work, self.decoder.forward([w.segment for w in work]))
        self._sample(results)
        return [result.running.request for result in results]

    def _admit(self) -> None:
        """Start requests that wait, in order, as far as there is room."""
        while self._waiting and len(self._running) < self._max_batch:
            running = _Running(self._waiting[0], self._block_size)
            used = sum(r.capacity for r in [*self._running, *self._kept])
            while used + running.capacity > self._max_positions and self._kept:
                used -= self._kept[0].capacity
                self._forget()
            if self._running and used + running.capacity > self._max_positions:
                return
            if running.n_prompt > self._block_size:
                self._notice(
                    f"the prompt has {running.n_prompt} tokens, the model's block size is {self._block_size}: "
                    "its start is left out"
                )
            self._waiting.popleft()
            running.cache = self.decoder.new_cache(running.capacity)
            self._running.append(running)

    def _share(self, running: _Running) -> bool:
        """Copy what another request has computed of the same prompt; return whether this one can go on now."""
        if running.has_begun:
            return True
        source, n = self._find_prefix(running)
        if source is not None:
            if source.n_cached < n:
                return False  # it is being computed
            self.decoder.copy_prefix(source.cache, running.cache, n)
            running.n_cached = n
            if n == running.n_context:
                running.prompt_logits = source.prompt_logits
        running.has_begun = True
        return True

    def _find_prefix(self, running: _Running) -> tuple[_Running | None, int]:
        """Find the request that shares the longest prefix, computed or being read, and how many tokens that is."""
        best, longest = None, _MIN_SHARED - 1
        prompt = running.ids[running.start :]
        for other in [*self._kept, *self._running]:
            if not other.has_begun or other.has_slid or other.start != running.start:
                continue
            if other.ids[other.start : other.n_prompt] == prompt:
                return other, len(prompt)
            if other.ids[other.start : other.start + _MIN_SHARED] != prompt[:_MIN_SHARED]:
                continue
            n = min(_count_equal(prompt, other.ids[other.start :]), len(prompt) - 1)
            if self.decoder.pieces_matter:
                n = min(n, other.n_prompt - other.start) // CHUNK * CHUNK
            if len(other.ids) > other.n_prompt:
                n = min(n, other.n_cached)
            if n > longest:
                best, longest = other, n
        return best, longest

    def _next_piece(self, running: _Running) -> _Work:
        """Return the next tokens of a context that is being read; pieces end at multiples of CHUNK."""
        first = running.n_cached
        end = min(running.n_context, (first // CHUNK + 1) * CHUNK)
        ids = running.ids[running.start + first : running.start + end]
        return _Work(running, Segment(running.cache, first, ids, int(end == running.n_context)), [])

    def _next_tokens(self, running: _Running) -> _Work:
        """Return the last token, and those that prompt lookup expects after it."""
        draft = list[int]()
        wanted = running.request.settings.prompt_lookup_num_tokens
        limit = min(wanted, running.left - 1, running.capacity - running.n_context)
        if limit > 0 and not self.decoder.pieces_matter:
            draft = look_up(running.ids, limit)
        return _Work(
            running, Segment(running.cache, running.n_cached, [running.ids[-1], *draft], 1 + len(draft)), draft
        )

    def _split(self, work: list[_Work], logits: Float[Tensor, "N V"]) -> Iterator[_Result]:
        """Count the positions that are certain; yield the logits of each request that has some."""
        row = 0
        for running, segment, draft in work:
            running.n_cached = segment.position + len(segment.ids) - len(draft)
            if not segment.n_logits:
                continue
            own = logits[row : row + segment.n_logits]
            row += segment.n_logits
            if len(running.ids) == running.n_prompt:
                running.prompt_logits = own.clone()
            yield _Result(running, own, draft)

    def _sample(self, results: list[_Result]) -> None:
        """Sample the next tokens of requests."""
        groups = dict[tuple[int, int | None], list[_Result]]()
        for result in results:
            request = result.running.request
            groups.setdefault((id(request.settings), request.below), []).append(result)
        for (_, below), members in groups.items():
            settings = members[0].running.request.settings
            uniforms = None
            if settings.temperature > 0:
                numbers = [u for running, logits, _ in members for u in running.uniforms(len(logits))]
                uniforms = torch.tensor(numbers, dtype=torch.float64)
            tokens = sample_tokens(
                torch.cat([logits for _, logits, _ in members])[:, :below], settings, uniforms
            ).tolist()
            for result in members:
                n = len(result.logits)
                self._take(result, tokens[:n])
                tokens = tokens[n:]

    def _take(self, result: _Result, tokens: list[int]) -> None:
        """Give tokens to a request: the first, and each after one that was expected; end it where it is finished."""
        running, logits, draft = result
        request, sink = running.request, running.request.sink
        for i, token in enumerate(tokens):
            sink.put(token)
            if request.with_logprobs:
                row = logits[i, : request.below]
                request.logprobs.append(token_logprob(row, token, request.settings.temperature))
            running.append(token)
            if sink.finish_reason is not None or not running.left:
                request.finish_reason = sink.finish_reason or "length"
                sink.end()
                self._leave(running)
                return
            if i == len(draft) or draft[i] != token:
                break
            running.n_cached += 1
        if running.n_context > self._block_size:
            self._slide(running)

    def _slide(self, running: _Running) -> None:
        """Go on from the last half of the block."""
        # For a sample during training it is a detail, which nobody can act on.
        level: Literal["detail", "info"] = "detail" if is_training() else "info"
        text = f"the text is longer than the block size of {self._block_size} tokens: its context slides"
        self._notice(text, level)
        running.start = len(running.ids) - max(1, self._block_size // 2)
        running.n_cached, running.has_slid = 0, True

    def _leave(self, running: _Running) -> None:
        self._running.remove(running)
        if self._n_kept and not running.has_slid and not self.decoder.pieces_matter:
            if len(self._kept) == self._n_kept:
                self._forget()
            self._kept.append(running)
        else:
            self.decoder.free(running.cache)

    def _forget(self) -> None:
        self.decoder.free(self._kept.popleft().cache)

    def _notice(self, text: str, level: Literal["detail", "info"] = "info") -> None:
        if text not in self._notices:
            progress.notice(text, level=level)
            self._notices.add(text)


def look_up(ids: Sequence[int], limit: int) -> list[int]:
    """Return up to ``limit`` tokens that followed the last earlier occurrence of the last two or three (prompt lookup).

    Source: Saxena 2023, "Prompt Lookup Decoding".
    """
    array = np.asarray(ids, dtype=np.int64)
    for n in _NGRAMS:
        if len(array) <= n:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(array[:-1], n)
        found = np.flatnonzero((windows == array[-n:]).all(1))
        if len(found):
            first = int(found[-1]) + n
            return [int(i) for i in array[first : first + limit]]
    return []


def _count_equal(a: Sequence[int], b: Sequence[int]) -> int:
    """Count the elements up to the first that differ."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n
