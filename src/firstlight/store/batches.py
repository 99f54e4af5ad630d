"""Batches as a pure function of the position: no state to save, the same for any number of workers, O(1).

Row p of a run is a window of ``block_size`` targets. In each epoch the text (of each source, if sources are weighted)
is split into windows from a random offset, wrapping around at its end; every target occurs once, up to less than one
window. The order of the windows is a keyed permutation. With weights, rows come in groups of 1,024 in which each
source has exactly its number of rows. If all documents have one length, as images do, each row is a document.
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
    """A span of the training text that is shuffled by itself: all of it, or one source."""

    first: int
    tokens: int
    windows: int


class Batches:
    """Training batches by position.

    Args:
        store: its train split is read.
        block_size: T, targets of a row.
        seed: seed of the order.
        weights: mixing weights of the sources, or None for one order over the whole text.
        document_masking: return the document starts of each row.
        class_dropout: ratio of rows whose first id (an image's class) is replaced, and the id that reindices it; only
            for stores of one document per row.

    Raises:
        StoreError: the text of a source is shorter than one window, or the number of weights is not that of sources.
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
        assert store.sequence_length in (None, block_size + 1), "each row is a document"
        self._step = store.sequence_length or block_size
        sources = [(str(s["name"]), s["train"]) for s in store.manifest.get("sources", [])]
        if weights is None:
            spans = [("the training text", 0, store.train.n_tokens)]
        else:
            spans = [(name, side["first_token"], side["tokens"]) for name, side in sources]
            if len(weights) != len(sources):
                raise StoreError(
                    "needs one weight per source", where="data.weights", found=len(weights), expected=len(sources)
                )
        for number, (name, _, tokens) in enumerate(spans):
            if tokens <= block_size and (weights is None or weights[number] > 0):
                raise StoreError(
                    "is shorter than one block",
                    where=name,
                    found=f"{tokens} tokens, block size {block_size}",
                    fix="Lower model.block_size, or add more text.",
                )
        self._ranges = [_Range(first, n, n // self._step) for _, first, n in spans]
        self._mixer = _SourceMixer(weights, seed) if weights is not None and len(weights) > 1 else None

    @property
    def windows_per_epoch(self) -> int:
        """Rows per epoch of the whole training text (with weights, the epochs of the sources differ)."""
        return sum(r.windows for r in self._ranges)

    def window_starts(self, position: int, rows: int) -> np.ndarray:
        """Return (rows, 3): first token of each row relative to its span, the span's first token, its length."""
        indices = np.arange(position, position + rows, dtype=np.int64)
        which = np.zeros(rows, np.int64) if self._mixer is None else np.empty(rows, np.int64)
        if self._mixer is not None:
            which, indices = self._mixer(indices)
        out = np.empty((rows, 3), dtype=np.int64)
        for number in np.unique(which):
            r = self._ranges[number]
            mine = which == number
            epochs, inside = np.divmod(indices[mine], r.windows)
            offsets = np.empty_like(inside)
            for epoch in np.unique(epochs):
                here = epochs == epoch
                key = round_keys(self._seed, int(number), int(epoch))
                offset = int(key[0] % np.uint64(r.tokens)) if self._step == self._T else 0
                offsets[here] = (permute(inside[here], r.windows, key) * self._step + offset) % r.tokens
            out[mine, 0], out[mine, 1], out[mine, 2] = offsets, r.first, r.tokens
        return out

    def batch(self, position: int, rows: int) -> Batch:
        """Read rows ``position`` to ``position + rows``.

        Raises:
            StoreError: the store's file has been cut.
        """
        import torch

        offsets = self.window_starts(position, rows)
        rows_of_ids = np.empty((rows, self._T + 1), self._split.dtype)
        for row, (start, base, tokens) in zip(rows_of_ids, offsets.tolist(), strict=True):
            end = min(len(row), tokens - start)
            self._split.read(base + start, row[:end])
            if end < len(row):  # the window wraps around at the end of the span
                self._split.read(base, row[end:])
        ids = torch.from_numpy(rows_of_ids.astype(np.int64))  # (B, T + 1)
        inputs = ids[:, :-1].contiguous()
        if self._class_dropout is not None:
            ratio, token = self._class_dropout
            inputs[torch.from_numpy(uniform(position, rows, round_keys(self._seed, "hidden")) < ratio), 0] = token
        starts = document_starts(inputs, self._eot) if self._masking else None
        return Batch(inputs, ids[:, 1:].contiguous(), None, starts)

    def sources(self, position: int, rows: int) -> list[str]:
        """Return the origins of the documents in these rows, in order, without duplicates."""
        names: dict[str, None] = {}
        for start, base, tokens in self.window_starts(position, rows).tolist():
            end = start + self._T + 1
            spans = [(start, min(end, tokens))] + ([(0, end - tokens)] if end > tokens else [])
            for first, last in spans:
                names |= dict.fromkeys(self._split.document_names(base + first, base + last))
        return list(names)


def document_starts(inputs: "Tensor", eot_id: int) -> "Tensor":
    """Mark the document starts that attention masks use: each end-of-text, which precedes a document, and column 0.

    Args:
        inputs: (B, T) ids.
        eot_id: end-of-text.
    """
    starts = inputs == eot_id
    starts[:, 0] = True
    return starts


class _SourceMixer:
    """Maps row indices to sources, and to the row index within the source."""

    def __init__(self, weights: list[float], seed: int) -> None:
        exact = np.array(weights) / sum(weights) * _GROUP
        # A source with a very small weight still has one row in each group.
        counts = np.maximum(np.floor(exact), exact > 0).astype(np.int64)
        while (missing := _GROUP - int(counts.sum())) != 0:
            counts[np.argmax(exact - counts if missing > 0 else counts)] += np.sign(missing)
        self._counts = counts
        self._source = np.repeat(np.arange(len(weights)), counts)  # by slot
        self._rank = np.concatenate([np.arange(c) for c in counts])
        self._seed = seed

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        which, ranks = np.empty_like(indices), np.empty_like(indices)
        groups, slots = np.divmod(indices, _GROUP)
        for group in np.unique(groups):
            here = groups == group
            order = self._source[permute(np.arange(_GROUP), _GROUP, round_keys(self._seed, "mix", int(group)))]
            # A source's rows follow one another, so that one epoch of it is over before the next offsets.
            rank = np.empty(_GROUP, dtype=np.int64)
            rank[np.argsort(order, kind="stable")] = self._rank
            which[here] = order[slots[here]]
            ranks[here] = rank[slots[here]]
        return which, groups * self._counts[which] + ranks


class Windows:
    """Evaluation batches: disjoint windows over a split, each target once; the last window is padded with weight 0.

    Args:
        split: usually valid.
        block_size: T, targets of a window.
        max_windows: use only this many, evenly spaced.
        document_masking: return the document starts of each window.
        eot_id: end-of-text, required for them.
        sequence_length: ids per document, if each document is one row.
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
        n_windows = -(-(split.n_tokens - 1) // self._step) if split.n_tokens > 1 else 0
        self._which = np.arange(n_windows)
        if max_windows is not None and max_windows < n_windows:
            self._which = np.linspace(0, n_windows - 1, max_windows).astype(np.int64)

    @property
    def block_size(self) -> int:
        """T, targets of a window."""
        return self._T

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self._which)

    @property
    def n_targets(self) -> int:
        """Number of targets, without padding."""
        offsets = self._which * self._step
        return int((np.minimum(offsets + self._T, self._split.n_tokens - 1) - offsets).sum())

    def batch(self, index: int, rows: int) -> Batch:
        """Read windows ``index`` to ``index + rows``."""
        import torch

        starts_of_rows = self._which[index : index + rows] * self._step
        inside = starts_of_rows[:, None] + np.arange(self._T + 1) < self._split.n_tokens
        padded = np.empty(inside.shape, self._split.dtype)
        for row, start, n in zip(padded, starts_of_rows.tolist(), inside.sum(1).tolist(), strict=True):
            self._split.read(start, row[:n])
            row[n:] = row[n - 1]
        ids = torch.from_numpy(padded.astype(np.int64))
        weights = None if inside.all() else torch.from_numpy(inside[:, 1:].astype(np.float32))
        inputs = ids[:, :-1].contiguous()
        starts = document_starts(inputs, self._eot) if self._masking else None
        return Batch(inputs, ids[:, 1:].contiguous(), weights, starts)
