"""Types that packages exchange: documents, vocabularies, batches and metrics of a step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

_MAX_EXAMPLES = 5

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]  # one path, or several


def as_list(paths: Paths) -> list[str]:
    """Return one path, or several, as a list: a string is one path, not a sequence of letters."""
    if isinstance(paths, str | os.PathLike):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a corpus, or a piece of a long one.

    Attributes:
        content: text, or an array: of pixels ((H, W) or (H, W, 3), uint8) or of ids (1-D).
        source: its origin: ``path``, or ``path:line`` in files of several documents.
        meta: other values from its reader, such as an image's label.
        continues: the next Document is the next piece of this one. A long text comes in pieces, so that memory does
            not grow with it.
    """

    content: str | np.ndarray
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False


@dataclass(frozen=True, slots=True)
class UnknownText:
    """The part of a text that a tokenizer has no tokens for.

    Attributes:
        tokens: unknown tokens, such as ``<unk>``.
        n_bytes: UTF-8 bytes that they stand for; None where that is not recorded.
        n_dropped: characters that got no token at all.
        dropped_bytes: their UTF-8 bytes.
        examples: some of the characters or words, for people.
    """

    tokens: int = 0
    n_bytes: int | None = 0
    n_dropped: int = 0
    dropped_bytes: int = 0
    examples: tuple[str, ...] = ()

    def __add__(self, other: UnknownText) -> UnknownText:
        """Return the unknown part of two texts."""
        n_bytes = None if self.n_bytes is None or other.n_bytes is None else self.n_bytes + other.n_bytes
        examples = tuple(dict.fromkeys((*self.examples, *other.examples)))[:_MAX_EXAMPLES]
        return UnknownText(
            self.tokens + other.tokens,
            n_bytes,
            self.n_dropped + other.n_dropped,
            self.dropped_bytes + other.dropped_bytes,
            examples,
        )

    @property
    def count(self) -> int:
        """Unknown tokens, and characters without a token."""
        return self.tokens + self.n_dropped

    def fraction(self, n_tokens: int) -> float:
        """Return the fraction of the tokens of a text that are unknown; a character without a token counts as one."""
        total = n_tokens + self.n_dropped
        return self.count / total if total else 0.0

    def to_json(self, n_tokens: int) -> dict[str, Any]:
        """Return the counts by the names that they have in every file and output, of a text of so many tokens."""
        table: dict[str, Any] = {
            "unk_tokens": self.tokens,
            "unk_bytes": self.n_bytes,
            "unk_fraction": self.fraction(n_tokens),
        }
        if self.n_dropped:
            table |= {"dropped_characters": self.n_dropped, "dropped_bytes": self.dropped_bytes}
        return table


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """The ids of texts, and what is unknown in them.

    Attributes:
        ids: of all texts, concatenated (int32).
        counts: number of ids of each text (int64).
        unk_bytes: UTF-8 bytes that each unknown token stands for, in the order of ``ids`` (int64).
        dropped: of each text, the number of characters that got no token, and of their UTF-8 bytes: (N, 2) int64.
        examples: some of what is unknown.
    """

    ids: np.ndarray
    counts: np.ndarray
    unk_bytes: np.ndarray
    dropped: np.ndarray
    examples: tuple[str, ...] = ()

    def unknown_counts(self, unknown_id: int | None) -> np.ndarray:
        """Return the unknown tokens of each text, and characters without a token: (N,) int64."""
        import numpy as np

        found = self.dropped[:, 0].copy()
        if unknown_id is not None and len(self.unk_bytes):
            owner = np.repeat(np.arange(len(self.counts)), self.counts)
            np.add.at(found, owner[self.ids == unknown_id], 1)
        return found

    @property
    def unknown(self) -> UnknownText:
        """What is unknown in all texts together."""
        n_dropped, dropped_bytes = self.dropped.sum(0).tolist()
        return UnknownText(len(self.unk_bytes), int(self.unk_bytes.sum()), n_dropped, dropped_bytes, self.examples)


class Vocabulary(Protocol):
    """A set of token ids, whatever they stand for: text, pixels, or something unknown."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def eot_id(self) -> int:
        """The id that ends a document (end of text); -1 if there is none."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 of everything that determines the ids."""
        ...

    def byte_lengths(self) -> np.ndarray:
        """Return the number of UTF-8 bytes of text of each id: (V,) int32; 0 for ids that are not text."""
        ...


@runtime_checkable
class Encoder(Vocabulary, Protocol):
    """The part of a tokenizer that the token store uses."""

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode texts; return their ids end to end (1-D, int32), and the number of ids of each text (int64)."""
        ...

    @property
    def unknown_id(self) -> int | None:
        """The id that text outside the vocabulary gets; None if there is none."""
        ...

    @property
    def has_unknown(self) -> bool:
        """Whether there may be text that has no tokens: it gets the unknown id, or is left out."""
        ...

    def encode_counted(self, texts: list[str]) -> EncodedTexts:
        """Encode texts as ``encode_batch`` does, and count what is unknown in them."""
        ...

    def split_point(self, text: str) -> int:
        """Return the last i with ids(text[:i]) + ids(text[i:] + more) = ids(text + more) for any ``more``, or 0."""
        ...


class IdVocabulary(Vocabulary, Protocol):
    """A vocabulary for documents that are ids already, as of images and other sequences."""

    @property
    def sequence_length(self) -> int | None:
        """Ids per document, if all documents have the same number; otherwise None."""
        ...


class BatchLike(Protocol):
    """A batch as the training loop sees it: rows that can be split into micro-batches, with weighted targets."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    def count_targets(self) -> Tensor:
        """Return the sum of the target weights and the number of targets with a weight: (2,) float64."""
        ...

    def slice_rows(self, rows: slice, device: torch.device) -> BatchLike:
        """Copy some of the rows to a device."""
        ...

    def loss_args(self) -> tuple[Any, ...]:
        """Return the positional arguments of the loss module."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens, each with the token that follows as its target.

    Attributes:
        inputs: (B, T) int64.
        targets: (B, T) int64.
        weights: (B, T) float32, or None if every target has weight 1; 0 masks a target.
        starts: (B, T) bool, True at the first token of a document, or None to attend across documents.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None
    starts: Tensor | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows, B."""
        return int(self.inputs.shape[0])

    def count_targets(self) -> Tensor:
        """Return the sum of the target weights and the number of targets with a weight: (2,) float64."""
        import torch

        if self.weights is None:
            return torch.full((2,), self.targets.numel(), dtype=torch.float64)
        return torch.stack([self.weights.double().sum(), (self.weights != 0).sum(dtype=torch.float64)])

    def slice_rows(self, rows: slice, device: torch.device) -> Batch:
        """Copy some of the rows to a device."""
        parts = (self.inputs, self.targets, self.weights, self.starts)
        moved = [None if part is None else part[rows].to(device, non_blocking=True) for part in parts]
        return Batch(*moved)  # type: ignore[arg-type]  # None only where it was None

    def loss_args(self) -> tuple[Any, ...]:
        """Return the positional arguments of the loss module."""
        return self.inputs, self.targets, self.weights, self.starts


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Metrics of one optimizer step, as plain numbers.

    Attributes:
        step: counted from 1.
        tokens: targets so far, including this step.
        position: index of the batch's first row in the order of the data.
        rows: rows of the global batch.
        targets: targets of the global batch.
        loss: mean negative log-likelihood per target, in nats.
        lr: learning rate of the first group.
        grad_norm: gradient norm before clipping.
        seconds: wall time of the step.
        applied: False if the update was skipped because loss or gradient was not finite.
        parts: further means over the same targets by name, such as the losses that ``loss`` is the sum of.
    """

    step: int
    tokens: int
    position: int
    rows: int
    targets: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    applied: bool = True
    parts: Mapping[str, float] = field(default_factory=dict)
