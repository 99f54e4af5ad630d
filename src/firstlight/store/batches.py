"""Batches as a pure function of the position: no state to save, the same for any number of workers, O(1).

Row p of a run is a window of ``block_size`` targets. In each epoch the text (of a source, where sources
are weighted) is cut into windows from an offset of that epoch's own, as if its end met its beginning;
every target counts once, but for less than one window. The windows' order is a keyed permutation.
With weights, rows come in groups of 1,024 in which each source has its share, to the row.
Where all documents have one length, as images have, a row is a document: windows begin where documents do.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstlight.errors import StoreError
from firstlight.store.permute import permute, round_keys, uniform
from firstlight.store.store import Split, TokenStore
from firstlight.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

_GROUP = 1024


@dataclass(frozen=True, slots=True)
class _Range:
    """A stretch of the training text, dealt out by itself."""

    first: int
    tokens: int
    windows: int


class Batches:
    """Training rows by position.

    Args:
        store: its train split is dealt out.
        block_size: T, targets of a row.
        seed: of the order.
        weights: shares of the sources, or None for one order over the whole text.
        document_masking: give each row's document starts.
        class_dropout: ratio of rows whose first id (an image's class) is replaced, and the id that replaces it; only
            for stores of one document per row.

    Raises:
        StoreError: the text of a source is shorter than one window, or there is not one weight a source.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        block_size: int,
        seed: int,
        weights: list[float] | None = None,
        document_masking: bool = False,
        class_dropout: tuple[float, int] | None = None,
    ) -> None:
        self._split, self._eot, self._class_dropout = store.train, store.eot_id, class_dropout
        self._T, self._seed, self._masking = block_size, seed, document_masking
        assert store.sequence_length in (None, block_size + 1), "a row is a document"
        self._step = store.sequence_length or block_size
        sources = [(str(s["name"]), s["train"]) for s in store.manifest.get("sources", [])]
        if weights is None:
            stretches = [("the training text", 0, store.train.n_tokens)]
        else:
            stretches = [(name, side["first_token"], side["tokens"]) for name, side in sources]
            if len(weights) != len(sources):
                raise StoreError(
                    "needs one weight a source", where="data.weights", found=len(weights), expected=len(sources)
                )
        for number, (name, _, tokens) in enumerate(stretches):
            if tokens <= block_size and (weights is None or weights[number] > 0):
                raise StoreError(
                    "is shorter than one block",
                    where=name,
                    found=f"{tokens} tokens, block size {block_size}",
                    fix="Lower model.block_size, or bring more text.",
                )
        self._ranges = [_Range(first, n, n // self._step) for _, first, n in stretches]
        self._deal = _Deal(weights, seed) if weights is not None and len(weights) > 1 else None

    @property
    def windows_per_epoch(self) -> int:
        """Rows in which the whole training text is seen once (by size; weights change that for each source)."""
        return sum(r.windows for r in self._ranges)

    def starts(self, position: int, rows: int) -> np.ndarray:
        """Return where each row begins: (rows, 3), first token in its range, the range's base, the range's tokens."""
        places = np.arange(position, position + rows, dtype=np.int64)
        which = np.zeros(rows, np.int64) if self._deal is None else np.empty(rows, np.int64)
        if self._deal is not None:
            which, places = self._deal(places)
        out = np.empty((rows, 3), dtype=np.int64)
        for number in np.unique(which):
            r = self._ranges[number]
            mine = which == number
            epochs, inside = np.divmod(places[mine], r.windows)
            begins = np.empty_like(inside)
            for epoch in np.unique(epochs):
                here = epochs == epoch
                key = round_keys(self._seed, int(number), int(epoch))
                offset = int(key[0] % np.uint64(r.tokens)) if self._step == self._T else 0
                begins[here] = (permute(inside[here], r.windows, key) * self._step + offset) % r.tokens
            out[mine, 0], out[mine, 1], out[mine, 2] = begins, r.first, r.tokens
        return out

    def batch(self, position: int, rows: int) -> Batch:
        """Return rows ``position`` to ``position + rows``."""
        import torch

        begins = self.starts(position, rows)
        index = (begins[:, :1] + np.arange(self._T + 1)) % begins[:, 2:] + begins[:, 1:2]  # (B, T + 1)
        ids = torch.from_numpy(self._split.tokens[index].astype(np.int64))
        inputs = ids[:, :-1].contiguous()
        if self._class_dropout is not None:
            ratio, token = self._class_dropout
            inputs[torch.from_numpy(uniform(position, rows, round_keys(self._seed, "hidden")) < ratio), 0] = token
        starts = document_starts(inputs, self._eot) if self._masking else None
        return Batch(inputs, ids[:, 1:].contiguous(), None, starts)

    def sources(self, position: int, rows: int) -> list[str]:
        """Name the documents that these rows have tokens of, in order, each once."""
        names: dict[str, None] = {}
        for begin, base, tokens in self.starts(position, rows).tolist():
            end = begin + self._T + 1
            stretches = [(begin, min(end, tokens))] + ([(0, end - tokens)] if end > tokens else [])
            for first, last in stretches:
                names |= dict.fromkeys(self._split.document_names(base + first, base + last))
        return list(names)


def document_starts(inputs: "Tensor", eot_id: int) -> "Tensor":
    """Return where documents begin in the model's view: at each end-of-text, which leads the next in, and at column 0.

    Args:
        inputs: (B, T) ids.
        eot_id: end-of-text.
    """
    starts = inputs == eot_id
    starts[:, 0] = True
    return starts


class _Deal:
    """Says which source each row comes from, and which of that source's rows it is."""

    def __init__(self, weights: list[float], seed: int) -> None:
        share = np.array(weights) / sum(weights) * _GROUP
        # A source of a very small weight still has its row in each group.
        counts = np.maximum(np.floor(share), share > 0).astype(np.int64)
        while (missing := _GROUP - int(counts.sum())) != 0:
            counts[np.argmax(share - counts if missing > 0 else counts)] += np.sign(missing)
        self._counts = counts
        self._source = np.repeat(np.arange(len(weights)), counts)  # by slot
        self._rank = np.concatenate([np.arange(c) for c in counts])
        self._seed = seed

    def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        which, ranks = np.empty_like(places), np.empty_like(places)
        groups, slots = np.divmod(places, _GROUP)
        for group in np.unique(groups):
            here = groups == group
            order = self._source[permute(np.arange(_GROUP), _GROUP, round_keys(self._seed, "mix", int(group)))]
            # A source's rows follow one another, so that one epoch of it is over before the next begins.
            rank = np.empty(_GROUP, dtype=np.int64)
            rank[np.argsort(order, kind="stable")] = self._rank
            which[here] = order[slots[here]]
            ranks[here] = rank[slots[here]]
        return which, groups * self._counts[which] + ranks


class Windows:
    """Disjoint windows over a split, each of its targets once; the last one padded with weight 0.

    Args:
        split: usually the valid one.
        block_size: T, targets of a window.
        max_windows: take only this many, evenly spread.
        document_masking: give each window's document starts.
        eot_id: end-of-text, needed for them.
        sequence_length: of a store whose documents are one a row: how many ids each has.
    """

    def __init__(
        self,
        split: Split,
        *,
        block_size: int,
        max_windows: int | None = None,
        document_masking: bool = False,
        eot_id: int = -1,
        sequence_length: int | None = None,
    ) -> None:
        self._split, self._T, self._masking, self._eot = split, block_size, document_masking, eot_id
        self._step = sequence_length or block_size
        in_all = -(-(split.n_tokens - 1) // self._step) if split.n_tokens > 1 else 0
        self._which = np.arange(in_all)
        if max_windows is not None and max_windows < in_all:
            self._which = np.linspace(0, in_all - 1, max_windows).astype(np.int64)

    @property
    def n_windows(self) -> int:
        """Windows in all."""
        return len(self._which)

    @property
    def n_targets(self) -> int:
        """Targets that count."""
        begins = self._which * self._step
        return int((np.minimum(begins + self._T, self._split.n_tokens - 1) - begins).sum())

    def batch(self, index: int, rows: int) -> Batch:
        """Return windows ``index`` to ``index + rows``."""
        import torch

        at = self._which[index : index + rows, None] * self._step + np.arange(self._T + 1)
        inside = at < self._split.n_tokens
        ids = torch.from_numpy(self._split.tokens[np.minimum(at, self._split.n_tokens - 1)].astype(np.int64))
        weights = None if inside.all() else torch.from_numpy(inside[:, 1:].astype(np.float32))
        inputs = ids[:, :-1].contiguous()
        starts = document_starts(inputs, self._eot) if self._masking else None
        return Batch(inputs, ids[:, 1:].contiguous(), weights, starts)
