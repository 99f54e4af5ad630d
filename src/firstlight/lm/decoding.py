"""Token by token with a key-value cache, several texts at once; a context that overflows slides.

Texts are padded at the left, so that all end in the same column of the cache. A text whose context has grown to
the block size goes on from the last half of it, which is read anew: one such pass every half block, in place of
one a token that an exact sliding window would need with absolute positions. Each text slides by its own length, so
what is written beside it changes nothing in it. Ended texts leave the cache, a quarter of its rows at a time; the
price is a copy of the cache, for a moment held twice.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstlight import progress
from firstlight.lm.forward import evaluating
from firstlight.model import GPT, Cache, ModelConfig, new_cache


class BatchDecoder:
    """The state of some texts that are being written.

    Args:
        model: in any mode; left in the mode it was in.
        prompts: ids of each text so far, none of them empty.
        room: tokens that will be written at most, which bounds the cache.

    Attributes:
        rows: ids of each text, prompt included.
        live: numbers of the texts that are still written.
    """

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        self._model, self._room = model, max_new_tokens
        self._block = model.config.block_size
        self._weight = next(model.parameters())
        self.rows = [list(ids) for ids in prompts]
        self.active = list(range(len(self.rows)))
        self._held = self.active  # as they stand in the cache, ended ones among them
        longest = max(map(len, self.rows))
        self._begins = [max(0, len(row) - self._block) for row in self.rows]
        self._cache: Cache | None = None
        self._slid = False
        if longest > self._block:
            progress.notice(f"the prompt has {longest} tokens, the model sees {self._block}: its beginning is left out")

    @torch.inference_mode()
    def logits(self) -> Float[Tensor, "B V"]:
        """Return the logits of the next token of each live text, in the order of ``active``."""
        if self._cache is None:
            self._cache, last = self._read([self.rows[i][self._begins[i] :] for i in self.active], self._room - 1)
        else:
            last = self._hidden([self.rows[i][-1:] for i in self._held], self._cache)
        if len(self.active) < len(self._held):
            last = last[[at for at, i in enumerate(self._held) if i in self.active]]
        return self._model.logits(last).float()

    @torch.inference_mode()
    def push(self, tokens: Sequence[int], ended: Collection[int] = ()) -> None:
        """Add one token to each live text, and write no further at those that have ``ended``; ``active`` may change."""
        for i, token in zip(self.active, tokens, strict=True):
            self.rows[i].append(token)
        self._room -= 1
        self.active = [i for i in self.active if i not in ended]
        if self._cache is None or not self.active or not self._room:
            return
        full = [i for i in self.active if self._length(i) > self._block]
        spare = 4 * len(self.active) <= 3 * len(self._held)
        if full or spare or self._cache.length >= self._cache.size:
            self._rearrange(self._cache, full)

    def _length(self, i: int) -> int:
        """Return the tokens of a text's context, the last one included, which is not yet in the cache."""
        return len(self.rows[i]) - self._begins[i]

    def _new(self, rows: int, size: int) -> Cache:
        return new_cache(self._model.config, rows, size, self._weight.device, self._weight.dtype)

    def _read(self, contexts: Sequence[Sequence[int]], max_new_tokens: int) -> tuple[Cache, Float[Tensor, "B C"]]:
        """Read contexts into a new cache with room for more tokens; return it and the last hidden states."""
        longest = max(map(len, contexts))
        cache = self._new(len(contexts), longest + max_new_tokens)
        pads = [longest - len(ids) for ids in contexts]
        cache.pad = _pad(pads, self._weight.device)
        return cache, self._hidden([[0] * pad + list(ids) for pad, ids in zip(pads, contexts, strict=True)], cache)

    def _hidden(self, ids: Sequence[Sequence[int]], cache: Cache) -> Float[Tensor, "B C"]:
        with evaluating(self._model):
            return self._model.hidden(torch.tensor(ids, device=self._weight.device), cache=cache)[:, -1]

    def _rearrange(self, cache: Cache, full: list[int]) -> None:
        """Keep live texts only; those whose context is full start from its last half, and come last."""
        if full and not self._slid:
            progress.notice(f"the text is longer than the model's {self._block} tokens: its context slides")
            self._slid = True
        rows = len(self._held)
        stay = [at for at, i in enumerate(self._held) if i in self.active and i not in full]
        self.active = self._held = [self._held[at] for at in stay] + full
        for i in full:
            self._begins[i] = len(self.rows[i]) - max(1, self._block // 2)
        # The last token is the next step's, for these texts as for the others.
        contexts = [self.rows[i][self._begins[i] : -1] for i in full]
        fresh = None
        if full:
            fresh = self._read(contexts, 0)[0] if contexts[0] else self._new(len(full), 1)
        self._cache = self._join(cache, rows, stay, fresh)

    def _join(self, cache: Cache, rows: int, stay: list[int], fresh: Cache | None) -> Cache:
        """Return one cache, as narrow as the live texts allow: ``stay`` of the rows of one, and all of a fresh one."""
        config = self._model.config
        lengths = [self._length(i) - 1 for i in self.active]
        width = max(lengths)
        joined = self._new(len(self.active), width + self._room)
        for layer in range(config.n_layer if width else 0):
            old = [tuple(t[stay] for t in _contents(cache, rows, config, layer))] if stay else []
            new = [_contents(fresh, len(self.active) - len(stay), config, layer)] if fresh is not None else []
            k, v = (torch.cat([_wide(t, width) for t in parts]) for parts in zip(*old, *new, strict=True))
            joined.extend(layer, k, v)
        joined.advance(width)
        joined.pad = _pad([width - n for n in lengths], self._weight.device)
        return joined


def _pad(pads: list[int], device: torch.device) -> Tensor | None:
    return torch.tensor(pads, device=device) if any(pads) else None


def _contents(cache: Cache, rows: int, config: ModelConfig, layer: int) -> tuple[Tensor, Tensor]:
    """Return keys and values of a layer: adding no position to a cache gives all that it holds."""
    nothing = torch.empty(rows, config.kv_heads, 0, config.head_dim)
    return cache.extend(layer, nothing, nothing)


def _wide(x: Float[Tensor, "B K S D"], width: int) -> Tensor:
    """Return the last ``width`` columns, with empty ones at the left where there are fewer."""
    x = x[:, :, -width:]
    return F.pad(x, (0, 0, width - x.shape[2], 0))
