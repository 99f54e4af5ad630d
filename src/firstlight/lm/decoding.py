"""Batched autoregressive decoding with a key-value cache; contexts beyond the block size slide.

Sequences are padded at the left, so that all end in the same column of the cache. A sequence whose context reaches the
block size continues from the last half of it, which is prefilled anew: one such pass every half block, instead of one
for each token, which an exact sliding window needs with absolute positions. Each sequence slides by its own length, so
it does not depend on the others in its batch. Finished sequences leave the cache a quarter of its rows at a time; the
price is a copy of the cache, which for a moment exists twice.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstlight import progress
from firstlight.lm.score import eval_mode
from firstlight.model import GPT, ModelConfig, StaticCache, new_cache
from firstlight.signals import is_training


class BatchDecoder:
    """The state of a batch of sequences that are being generated.

    Args:
        model: in any mode, which is restored.
        prompts: ids of each sequence so far, none empty.
        max_new_tokens: tokens that will be generated at most, which limits the cache.

    Attributes:
        sequences: ids of each sequence, with the prompt.
        active: indices of the sequences that are not finished.
    """

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        self._model, self._remaining = model, max_new_tokens
        self._block_size = model.config.block_size
        self._weight = next(model.parameters())
        self.sequences = [list(ids) for ids in prompts]
        self.active = list(range(len(self.sequences)))
        self._cached = self.active  # in the order of the cache's rows, some of them finished
        longest = max(map(len, self.sequences))
        self._starts = [max(0, len(ids) - self._block_size) for ids in self.sequences]  # of the contexts
        self._cache: StaticCache | None = None
        self._has_slid = False
        if longest > self._block_size:
            progress.notice(
                f"the prompt has {longest} tokens, the model's block size is {self._block_size}: its start is left out"
            )

    @torch.inference_mode()
    def next_logits(self) -> Float[Tensor, "B V"]:
        """Compute the logits of the next token of each active sequence, in the order of ``active``."""
        if self._cache is None:
            contexts = [self.sequences[i][self._starts[i] :] for i in self.active]
            self._cache, last = self._prefill(contexts, self._remaining - 1)
        else:
            last = self._last_hidden([self.sequences[i][-1:] for i in self._cached], self._cache)
        if len(self.active) < len(self._cached):
            last = last[[row for row, i in enumerate(self._cached) if i in self.active]]
        return self._model.logits(last).float()

    @torch.inference_mode()
    def append(self, tokens: Sequence[int], finished: Collection[int] = ()) -> None:
        """Append a token to each active sequence, then remove ``finished`` ones from ``active``."""
        for i, token in zip(self.active, tokens, strict=True):
            self.sequences[i].append(token)
        self._remaining -= 1
        self.active = [i for i in self.active if i not in finished]
        if self._cache is None or not self.active or not self._remaining:
            return
        full = [i for i in self.active if self._context_length(i) > self._block_size]
        has_unused_rows = 4 * len(self.active) <= 3 * len(self._cached)
        if full or has_unused_rows or self._cache.length >= self._cache.max_length:
            self._rebuild_cache(self._cache, full)

    def _context_length(self, i: int) -> int:
        """Count the tokens of a sequence's context, with the last one, which is not cached yet."""
        return len(self.sequences[i]) - self._starts[i]

    def _new_cache(self, batch_size: int, max_length: int) -> StaticCache:
        return new_cache(self._model.config, batch_size, max_length, self._weight.device, self._weight.dtype)

    def _prefill(
        self, contexts: Sequence[Sequence[int]], n_new_tokens: int
    ) -> tuple[StaticCache, Float[Tensor, "B C"]]:
        """Run contexts through the model into a new cache with space for more; return it and the last hidden states."""
        longest = max(map(len, contexts))
        cache = self._new_cache(len(contexts), longest + n_new_tokens)
        padding = [longest - len(ids) for ids in contexts]
        cache.pad = _pad(padding, self._weight.device)
        padded = [[0] * n + list(ids) for n, ids in zip(padding, contexts, strict=True)]
        return cache, self._last_hidden(padded, cache)

    def _last_hidden(self, ids: Sequence[Sequence[int]], cache: StaticCache) -> Float[Tensor, "B C"]:
        with eval_mode(self._model):
            return self._model.hidden(torch.tensor(ids, device=self._weight.device), cache=cache)[:, -1]

    def _rebuild_cache(self, cache: StaticCache, full: list[int]) -> None:
        """Keep active sequences only; those with a full context restart from its last half, in the last rows."""
        if full and not self._has_slid:
            # For a sample during training it is a detail, which nobody can act on.
            level = "detail" if is_training() else "info"
            text = f"the text is longer than the block size of {self._block_size} tokens: its context slides"
            progress.notice(text, level=level)
            self._has_slid = True
        n_rows = len(self._cached)
        kept = [row for row, i in enumerate(self._cached) if i in self.active and i not in full]
        self.active = self._cached = [self._cached[row] for row in kept] + full
        for i in full:
            self._starts[i] = len(self.sequences[i]) - max(1, self._block_size // 2)
        # The last token belongs to the next step, as for the other sequences.
        contexts = [self.sequences[i][self._starts[i] : -1] for i in full]
        prefilled = None
        if full:
            prefilled = self._prefill(contexts, 0)[0] if contexts[0] else self._new_cache(len(full), 1)
        self._cache = self._merge(cache, n_rows, kept, prefilled)

    def _merge(self, cache: StaticCache, n_rows: int, kept: list[int], prefilled: StaticCache | None) -> StaticCache:
        """Merge the ``kept`` rows of a cache and all of a prefilled one, as short as the active sequences allow."""
        config = self._model.config
        lengths = [self._context_length(i) - 1 for i in self.active]
        longest = max(lengths)
        merged = self._new_cache(len(self.active), longest + self._remaining)
        for layer in range(config.n_layer if longest else 0):
            old = [tuple(t[kept] for t in _contents(cache, n_rows, config, layer))] if kept else []
            new = [_contents(prefilled, len(self.active) - len(kept), config, layer)] if prefilled is not None else []
            k, v = (torch.cat([_fit(t, longest) for t in parts]) for parts in zip(*old, *new, strict=True))
            merged.update(layer, k, v)
        merged.advance(longest)
        merged.pad = _pad([longest - n for n in lengths], self._weight.device)
        return merged


def _pad(padding: list[int], device: torch.device) -> Tensor | None:
    return torch.tensor(padding, device=device) if any(padding) else None


def _contents(cache: StaticCache, n_rows: int, config: ModelConfig, layer: int) -> tuple[Tensor, Tensor]:
    """Return the cached keys and values of a layer, by appending no position."""
    empty = torch.empty(n_rows, config.kv_heads, 0, config.head_dim)
    return cache.update(layer, empty, empty)


def _fit(x: Float[Tensor, "B K S D"], length: int) -> Tensor:
    """Return the last ``length`` positions, padded at the left where there are fewer."""
    x = x[:, :, -length:]
    return F.pad(x, (0, 0, length - x.shape[2], 0))
