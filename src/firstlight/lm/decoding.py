"""The decoding engine: requests join and leave at each step, prompts are read in chunks beside running requests.

A step runs one new token of each running request, and the next chunks of prompts, through the model. What a request
gets does not depend on the others: its random numbers are its own, its prompt is read in chunks that depend on its
length only, and the decoder computes each row as if it were alone. Requests with a common prefix compute it once.

A context that reaches the block size goes on from its last half, which is read anew: one such pass every half block,
instead of one for each token, which an exact sliding window needs with absolute positions.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstlight import progress
from firstlight.errors import CheckpointError, UsageError
from firstlight.lm.request import FinishReason, Request, Running
from firstlight.lm.sampling import sample_tokens, token_logprob
from firstlight.model import GPT
from firstlight.model.decoders import Decoder, Segment, new_decoder
from firstlight.parallel import single_threaded
from firstlight.signals import is_training

CHUNK = 128  # tokens of a prompt that are read in one step, so that running requests need not wait longer
_MIN_SHARED = 8  # tokens of a common prefix that are worth a copy
_NGRAMS = (3, 2)  # lengths of what prompt lookup searches for


class _Work(NamedTuple):
    """What a request runs in a step; the last tokens of the segment are the draft."""

    running: Running
    segment: Segment
    draft: list[int]


class _Result(NamedTuple):
    """The logits that a request samples from: of one token, and of one after each token of the draft.

    ``n_cached`` positions of its context are then certain; they count once it has its token, so that an exception
    leaves requests as they were.
    """

    running: Running
    n_cached: int
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
        self._model, self._native = model, native
        self._block_size, self._max_batch, self._n_kept = model.config.block_size, max_batch, n_kept
        self._max_cache_bytes = max_cache_bytes
        self.decoder: Decoder = new_decoder(model, native=native)
        self._versions = _versions(model)
        self._waiting = deque[Request]()
        self._running: list[Running] = []
        self._kept = deque[Running]()
        self._notices = set[str]()

    def add(self, request: Request) -> None:
        """Add a request, which starts when there is room for it.

        Raises:
            UsageError: its prompt is empty, or has an id that the model does not have.
        """
        V = self._model.config.vocab_size or 0
        bad = next((i for i in request.prompt if not 0 <= i < V), None)
        if bad is not None or not request.prompt:
            found = "no ids" if bad is None else f"id {bad}"
            raise UsageError("not a prompt of this model", found=found, expected=f"ids from 0 to {V - 1}")
        if not self._running and self._versions != (versions := _versions(self._model)):
            # The weights have changed, so what was computed with the former ones counts no more.
            while self._kept:
                self._forget()
            self.decoder, self._versions = new_decoder(self._model, native=self._native), versions
        if request.settings.prompt_lookup_num_tokens and not self.decoder.chunk_invariant:
            self._notice("prompt lookup has no effect: it needs the decoder in C++")
        self._waiting.append(request)

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """End a request now; what it has stays."""
        self._end(request, "cancelled")

    def _end(self, request: Request, reason: FinishReason) -> None:
        if request.finish_reason is not None:
            return
        request.finish_reason = reason
        if request in self._waiting:
            self._waiting.remove(request)
        running = next((r for r in self._running if r.request is request), None)
        if running is not None:
            self._leave(running)
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
            CheckpointError: the logits of a request are not finite, which has ended; the others have their tokens.
            Exception: of a sink, likewise.
        """
        if not self.decoder.chunk_invariant:
            return self._step()
        with single_threaded():  # idle threads of torch's operators would take the cores of the decoder's
            return self._step()

    def _step(self) -> list[Request]:
        self._admit()
        work, results, n_read = list[_Work](), list[_Result](), 0
        for running in self._running:
            if running.is_decoding:
                work.append(self._next_tokens(running))
            elif n_read < CHUNK and self._share(running):
                if running.prompt_logits is not None and not running.has_slid:
                    results.append(_Result(running, running.n_context, running.prompt_logits, []))
                    continue
                work.append(self._next_chunk(running))
                n_read += len(work[-1].segment.ids)
        if work:
            results += self._split(work, self.decoder.forward([w.segment for w in work]))
        self._sample(results)
        return [result.running.request for result in results]

    def _admit(self) -> None:
        """Start requests that wait, in order, as far as there is room."""
        while self._waiting and len(self._running) < self._max_batch:
            running = Running(self._waiting[0], self._block_size)
            while self._kept and not self._has_room(running):
                self._forget()
            if self._running and not self._has_room(running):
                return
            if running.n_prompt > self._block_size:
                self._notice(
                    f"the prompt has {running.n_prompt} tokens, the model's block size is {self._block_size}: "
                    "its start is left out"
                )
            self._waiting.popleft()
            running.cache = self.decoder.new_cache(running.capacity)
            self._running.append(running)

    def _has_room(self, running: Running) -> bool:
        capacities = [r.capacity for r in [*self._running, *self._kept, running]]
        return self.decoder.count_positions(capacities) * self.decoder.position_bytes <= self._max_cache_bytes

    def _share(self, running: Running) -> bool:
        """Copy what another request has computed of the same prompt; return whether this one can go on now."""
        if not running.has_begun:
            equal = next((r for r in [*self._kept, *self._running] if r.has_read(running)), None)
            source, n = (equal, running.n_context) if equal is not None else self._find_prefix(running)
            if source is not None and source.n_cached < n:
                return False  # it is being computed
            running.has_begun = True
            if source is not None:
                self.decoder.copy_prefix(source.cache, running.cache, n)
                running.n_cached = n
            if equal is not None:
                running.prompt_logits = equal.prompt_logits
        return True

    def _find_prefix(self, running: Running) -> tuple[Running | None, int]:
        """Find the request that shares the longest prefix, computed or being read, and how many tokens that is."""
        best, longest = None, _MIN_SHARED - 1
        prompt = running.ids[running.start :]
        for other in [*self._kept, *self._running]:
            if not other.has_begun or other.has_slid or other.start != running.start:
                continue
            if other.ids[other.start : other.start + _MIN_SHARED] != prompt[:_MIN_SHARED]:
                continue
            n = min(_count_equal(prompt, other.ids[other.start :]), len(prompt) - 1)
            if not self.decoder.chunk_invariant:
                n = min(n, other.n_prompt - other.start) // CHUNK * CHUNK
            if other.prompt_logits is not None:  # it reads no more of its prompt
                n = min(n, other.n_cached)
            if n > longest:
                best, longest = other, n
        return best, longest

    def _next_chunk(self, running: Running) -> _Work:
        """Return the next tokens of a context that is being read; chunks end at multiples of CHUNK."""
        first = running.n_cached
        end = min(running.n_context, (first // CHUNK + 1) * CHUNK)
        ids = running.ids[running.start + first : running.start + end]
        return _Work(running, Segment(running.cache, first, ids, int(end == running.n_context)), [])

    def _next_tokens(self, running: Running) -> _Work:
        """Return the last token, and those that prompt lookup expects after it."""
        draft = list[int]()
        wanted = running.request.settings.prompt_lookup_num_tokens
        limit = min(wanted, running.left - 1, running.capacity - running.n_context)
        if limit > 0 and self.decoder.chunk_invariant:
            draft = look_up(running.ids, limit)
        return _Work(
            running, Segment(running.cache, running.n_cached, [running.ids[-1], *draft], 1 + len(draft)), draft
        )

    def _split(self, work: list[_Work], logits: Float[Tensor, "N V"]) -> Iterator[_Result]:
        """Count the positions of prompts that were read; yield the logits of each request that has some."""
        row = 0
        for running, segment, draft in work:
            n_cached = segment.position + len(segment.ids) - len(draft)
            if not segment.n_logits:
                running.n_cached = n_cached
                continue
            own = logits[row : row + segment.n_logits]
            row += segment.n_logits
            if len(running.ids) == running.n_prompt:
                running.n_cached, running.prompt_logits = n_cached, own.clone()
                yield from self._serve_equal(running)
            yield _Result(running, n_cached, own, draft)

    def _serve_equal(self, source: Running) -> Iterator[_Result]:
        """Give what was computed of a prompt to the requests with the same one that wait for it."""
        for other in self._running:
            if not other.has_begun and source.has_read(other):
                self.decoder.copy_prefix(source.cache, other.cache, source.n_cached)
                other.has_begun, other.n_cached = True, source.n_cached
                other.prompt_logits = source.prompt_logits
                assert other.prompt_logits is not None
                yield _Result(other, other.n_cached, other.prompt_logits, [])

    def _sample(self, results: list[_Result]) -> None:
        """Sample the next tokens of requests; one that fails ends, and its exception is raised after the others."""
        groups = dict[tuple[int, int | None], list[_Result]]()
        failed: Exception | None = None
        for result in results:
            request = result.running.request
            groups.setdefault((id(request.settings), request.below), []).append(result)
        for (_, below), group in groups.items():
            members, logits = group, torch.cat([result.logits for result in group])[:, :below]
            finite = logits.amax(-1).isfinite()
            if not finite.all():
                members = self._drop_failed(group, finite.tolist())
                failed = CheckpointError(
                    "the model's logits are not finite",
                    fix="Its weights are damaged, or its training diverged: use an earlier checkpoint.",
                )
                if not members:
                    continue
                logits = torch.cat([result.logits for result in members])[:, :below]
            settings = members[0].running.request.settings
            uniforms = None
            if settings.temperature > 0:
                numbers = [u for result in members for u in result.running.uniforms(len(result.logits))]
                uniforms = torch.tensor(numbers, dtype=torch.float64)
            tokens = sample_tokens(logits, settings, uniforms).tolist()
            for result in members:
                n = len(result.logits)
                try:
                    self._take(result, tokens[:n])
                except Exception as error:  # noqa: BLE001 - of a sink, which is the caller's
                    failed = error
                    self._end(result.running.request, "error")
                tokens = tokens[n:]
        if failed is not None:
            raise failed

    def _drop_failed(self, group: list[_Result], finite: list[bool]) -> list[_Result]:
        """End the requests that have a row of logits that is not finite; return the results of the others."""
        good = list[_Result]()
        for result in group:
            own, finite = finite[: len(result.logits)], finite[len(result.logits) :]
            if all(own):
                good.append(result)
            else:
                self._end(result.running.request, "error")
        return good

    def _take(self, result: _Result, tokens: list[int]) -> None:
        """Give tokens to a request: the first, and each after one that was expected; end it where it is finished."""
        running, n_cached, logits, draft = result
        request, sink = running.request, running.request.sink
        for i, token in enumerate(tokens):
            if request.finish_reason is not None:  # a sink has cancelled it
                return
            sink.put(token)
            if request.with_logprobs:
                row = logits[i, : request.below]
                request.logprobs.append(token_logprob(row, token, request.settings.temperature))
            running.append(token)
            running.n_cached = n_cached + i
            if request.finish_reason is None and (sink.finish_reason is not None or not running.left):
                self._end(request, sink.finish_reason or "length")
                return
            if i == len(draft) or draft[i] != token:
                break
        if running.n_context > self._block_size:
            self._slide(running)

    def _slide(self, running: Running) -> None:
        """Go on from the last half of the block."""
        # For a sample during training it is a detail, which nobody can act on.
        level: Literal["detail", "info"] = "detail" if is_training() else "info"
        text = f"the text is longer than the block size of {self._block_size} tokens: its context slides"
        self._notice(text, level)
        running.start = len(running.ids) - max(1, self._block_size // 2)
        running.n_cached, running.has_slid = 0, True

    def _leave(self, running: Running) -> None:
        self._running.remove(running)
        is_read = running.prompt_logits is not None and not running.has_slid
        if self._n_kept and is_read and self.decoder.chunk_invariant:
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


def _versions(model: GPT) -> list[tuple[int, int]]:
    """Identify the values of a model's weights: where they are, and how often they were changed."""
    return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()]


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
