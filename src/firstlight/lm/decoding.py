"""Token by token with a key-value cache, several texts at once; a context that overflows slides.

Texts of a batch are padded at the left, so that all end at the same position. When the cache is full, each
row's last half block is read again from an empty cache: one such pass every half block, in place of one
a token that an exact sliding window would need with absolute positions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from firstlight import progress
from firstlight.model import GPT, new_cache


class Decoding:
    """The state of some texts that are being written.

    Args:
        model: in evaluation mode.
        prompts: ids of each text so far, none of them empty.
        room: tokens that will be written at most, which bounds the cache.
    """

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], room: int) -> None:
        self._model = model
        self._block = model.config.block_size
        weight = model.embed.weight
        self._device = weight.device
        longest = max(map(len, prompts))
        self._cache = new_cache(model.config, len(prompts), longest + room, weight.device, weight.dtype)
        self.rows = [list(ids) for ids in prompts]
        self._told = False
        if longest > self._block:
            self._tell(f"the prompt has {longest} tokens, the model sees {self._block}: its beginning is left out")

    def logits(self) -> Float[Tensor, "B V"]:
        """Return the logits of each row's next token."""
        if self._cache.length == 0:
            return self._read(self._block)
        if self._cache.length >= self._cache.size:
            self._tell(f"the text is longer than the model's {self._block} tokens: its context slides")
            self._cache.reset()
            return self._read(max(1, self._block // 2))
        ids = torch.tensor([row[-1:] for row in self.rows], device=self._device)
        return self._next(ids)

    def push(self, tokens: Sequence[int]) -> None:
        """Add one token to each row."""
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(token)

    def _read(self, most: int) -> Tensor:
        """Read the last ``most`` tokens of each row from an empty cache."""
        held = [row[-most:] for row in self.rows]
        longest = max(map(len, held))
        pads = [longest - len(row) for row in held]
        if any(pads):
            self._cache.pad = torch.tensor(pads, device=self._device)
        ids = torch.tensor([[0] * pad + row for pad, row in zip(pads, held, strict=True)], device=self._device)
        return self._next(ids)

    def _next(self, ids: Tensor) -> Tensor:
        hidden = self._model.hidden(ids, cache=self._cache)[:, -1]  # (B, C)
        return torch.nn.functional.linear(hidden, self._model.head_weight).float()

    def _tell(self, text: str) -> None:
        if not self._told:
            progress.notice(text)
        self._told = True
