"""The plain decoder: the model's own forward pass, on any device, for any parts."""

import copy
from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from firstlight.model.cache import StaticCache, new_store
from firstlight.model.decoders.decoder import Segment
from firstlight.model.gpt import GPT, eval_mode
from firstlight.model.kernels.linear import batch_invariant

_MULTIPLE = 64  # of the positions for which memory is allocated


class _Slot:
    """A sequence's row of the store."""

    def __init__(self, row: int, capacity: int) -> None:
        self.row, self.capacity, self.length = row, capacity, 0


class PlainDecoder:
    """Runs new positions through ``GPT.hidden``.

    Keys and values of all sequences are in one tensor, whose first rows are in use: on a GPU attention then reads them
    at once. Tokens that are decoded go through the model together, chunks of prompts one by one, or on a GPU those of
    equal length together. On a CPU products get at least two rows, since one row takes another kernel, and weights in
    16 bits are copied to fp32, since their products depend on the number of rows.

    Args:
        model: in any mode, which is restored.
    """

    chunk_invariant = False

    def __init__(self, model: GPT) -> None:
        self._weight = next(model.parameters())
        self._is_cpu = self._weight.device.type == "cpu"
        if self._is_cpu and any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters()):
            model = copy.deepcopy(model)
            for parameter in model.parameters():
                parameter.data = parameter.data.float()
            self._weight = next(model.parameters())
        self._model = model
        c = model.config
        self.position_bytes = 2 * c.n_layer * c.kv_heads * c.head_dim * self._weight.element_size()
        self._slots: list[_Slot] = []
        self._store = self._new_store(1, 1)

    @torch.inference_mode()
    def new_cache(self, capacity: int) -> _Slot:
        """Allocate the row of a sequence of up to ``capacity`` positions."""
        if not self._slots:  # what was needed before need not be needed again
            self._store = self._new_store(1, 1)
        slot = _Slot(len(self._slots), capacity)
        self._slots.append(slot)
        rows, length = self._store.shape[2], self._store.shape[4]
        needed = self._shape([slot.capacity for slot in self._slots])
        if needed[0] > rows or needed[1] > length:
            store = self._new_store(max(rows, needed[0]), max(length, needed[1]))
            store[:, :, :rows, :, :length] = self._store
            self._store = store
        return slot

    def _shape(self, capacities: Sequence[int]) -> tuple[int, int]:
        """Return the rows and the positions of each that the store needs: powers of two, and whole blocks of memory."""
        longest = -(-max(capacities) // _MULTIPLE) * _MULTIPLE
        return 1 << (len(capacities) - 1).bit_length(), max(
            max(capacities), min(self._model.config.block_size, longest)
        )

    def count_positions(self, capacities: Sequence[int]) -> int:
        """Count the positions of a store for these sequences, all as long as the longest."""
        rows, length = self._shape(capacities)
        return rows * length

    def _new_store(self, rows: int, length: int) -> Tensor:
        return new_store(self._model.config, rows, length, self._weight.device, self._weight.dtype)

    @torch.inference_mode()
    def free(self, cache: _Slot) -> None:
        """Give a row back; the last one takes its place."""
        last = self._slots.pop()
        if last is not cache:
            self._store[:, :, cache.row, :, : last.length] = self._store[:, :, last.row, :, : last.length]
            last.row = cache.row
            self._slots[last.row] = last

    @torch.inference_mode()
    def copy_prefix(self, source: _Slot, target: _Slot, n: int) -> None:
        """Copy the first ``n`` positions of a sequence to another."""
        self._store[:, :, target.row, :, :n] = self._store[:, :, source.row, :, :n]
        target.length = n

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Float[Tensor, "N V"]:
        """Append new positions to their caches; return the wanted logits, in the order of the segments."""
        groups = defaultdict[tuple[int, int], list[int]](list)
        for index, segment in enumerate(segments):
            n = len(segment.ids)
            groups[n, 0 if n == 1 or not self._is_cpu else index].append(index)
        hidden = dict[int, Tensor]()
        with eval_mode(self._model), batch_invariant():
            for (n, _), members in sorted(groups.items()):
                hidden |= self._run([segments[i] for i in members], members, n)
            wanted = [hidden[i] for i in range(len(segments)) if segments[i].n_logits]
            if not wanted:
                return torch.empty(0, self._model.config.vocab_size or 0)
            rows = torch.cat(wanted)
            padded = torch.cat([rows, rows]) if self._is_cpu and len(rows) == 1 else rows
            return self._model.logits(padded)[: len(rows)].float()

    def _run(self, segments: Sequence[Segment], indices: Sequence[int], n: int) -> dict[int, Tensor]:
        """Run segments of ``n`` tokens; return the hidden states whose logits are wanted, by index."""
        slots: list[_Slot] = [segment.cache for segment in segments]
        for slot, segment in zip(slots, segments, strict=True):
            slot.length = segment.position
        rows, lengths = [slot.row for slot in slots], [slot.length for slot in slots]
        ids = [list(segment.ids) for segment in segments]
        order = list(range(len(slots)))
        if self._is_cpu and n == len(ids) == 1:
            rows, lengths, ids = 2 * rows, 2 * lengths, 2 * ids
        elif not self._is_cpu and n == 1:
            # All rows in use, so that attention reads them in place; what others get is overwritten by their tokens.
            order, lengths = rows, [min(slot.length, slot.capacity - 1) for slot in self._slots]
            given = dict(zip(rows, ids, strict=True))
            rows = list(range(len(self._slots)))
            ids = [given.get(row, [0]) for row in rows]
        cache = StaticCache(self._store, rows, lengths)
        x = self._model.hidden(torch.tensor(ids, device=self._weight.device), cache=cache)
        for slot in slots:
            slot.length += n
        return {
            index: x[order[i], n - segment.n_logits :]
            for i, (index, segment) in enumerate(zip(indices, segments, strict=True))
        }
