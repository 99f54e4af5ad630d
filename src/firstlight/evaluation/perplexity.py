"""The likelihood of a text: loss, perplexity, and bits per byte, which is comparable across tokenizers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from firstlight import parallel, progress
from firstlight.errors import UsageError
from firstlight.evaluation.likelihood import Likelihood
from firstlight.lm import LM, score_windows
from firstlight.statistics import ratio_interval
from firstlight.types import Document, Encoder

_BATCH_CHARACTERS = 1 << 20
_ROW_TOKENS = 8192  # of one forward pass


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text as one row of ids, with end-of-text before and after each document.

    Attributes:
        name: what the text is called.
        ids: 1-D; the first is context only.
        n_bytes: UTF-8 bytes of the text.
    """

    name: str
    ids: np.ndarray
    n_bytes: int


def encode_text(name: str, documents: Iterable[Document], encoder: Encoder, between: int | None = None) -> EncodedText:
    """Encode documents into one stream; the ids of a long one that comes in pieces are those of the whole.

    Args:
        name: what the text is called.
        documents: in order.
        encoder: the tokenizer.
        between: the token before and after each document, where it is not end-of-text.

    Raises:
        UsageError: a document is no text.
    """
    between = encoder.eot_id if between is None else between
    parts, n_bytes = [np.array([between], dtype=np.int32)], 0
    for pieces in _pieces(documents, encoder.split_point):
        n_bytes += sum(len(text.encode("utf-8", "surrogatepass")) for text, _ in pieces)
        ids, counts = encoder.encode_batch([text for text, _ in pieces])
        ends = counts.cumsum()[[last for _, last in pieces]]
        parts.append(np.insert(ids, ends, between))
    return EncodedText(name, np.concatenate(parts), n_bytes)


def join_ids(name: str, documents: Iterable[Document], eot_id: int) -> EncodedText:
    """Join documents that are ids already into one stream, with ``eot_id`` before and after each."""
    end = np.array([eot_id], dtype=np.int32)
    parts = [end]
    for document in documents:
        assert isinstance(document.content, np.ndarray)
        parts += [document.content] if document.continues else [document.content, end]
    return EncodedText(name, np.concatenate(parts), 0)


def _pieces(documents: Iterable[Document], cut: Callable[[str], int]) -> Iterator[list[tuple[str, bool]]]:
    """Group texts by the megabyte, each with whether it is the last of its document."""
    batch: list[tuple[str, bool]] = []
    held, size, least, ready, unfinished = list[str](), 0, 0, 0, False
    for document in documents:
        if not isinstance(document.content, str):
            raise UsageError("a document is no text", where=document.source)
        held.append(document.content)
        size += len(document.content)
        unfinished = document.continues
        # After a search in vain the text must double before the next one, so that searching stays linear.
        if document.continues and size < least:
            continue
        text = "".join(held)
        at = cut(text) if document.continues else len(text)
        held, size, least = [text[at:]], len(text) - at, 0 if at else 2 * len(text)
        if at or not document.continues:
            batch.append((text[:at], not document.continues))
            least, ready = 0, ready + at
        if ready >= _BATCH_CHARACTERS:
            yield batch
            batch, ready = [], 0
    if unfinished:
        batch.append(("".join(held), True))
    if batch:
        yield batch


def text_likelihood(lm: LM, stream: EncodedText, *, stride: int) -> tuple[Likelihood, tuple[float, float] | None]:
    """Return the likelihood of a stream under a model, and the 95 % interval of its loss over windows.

    Args:
        lm: the model.
        stream: at least two ids.
        stride: tokens that each window moves on by.
    """
    lengths = None if lm.tokenizer is None else lm.tokenizer.byte_lengths()
    sums, counts, text_nats, n_bytes = [], [], 0.0, 0
    with progress.task("evaluate", len(stream.ids) - 1, "tokens") as task:
        for window in score_windows(lm.model, stream.ids, stride=stride, device_context=lm.device_context):
            nats = window.nll.astype(np.float64)
            targets = stream.ids[1 + window.start : 1 + window.start + len(nats)]
            sums.append(nats.sum())
            counts.append(len(nats))
            if lengths is not None:
                text_nats += float(nats[lengths[targets] > 0].sum())
                n_bytes += int(lengths[targets].sum())
            task.advance(len(nats))
    loss = float(np.sum(sums) / np.sum(counts))
    return Likelihood.of(loss, text_nats, n_bytes), ratio_interval(np.array(sums), np.array(counts))


def row_likelihood(lm: LM, rows: np.ndarray) -> tuple[Likelihood, tuple[float, float] | None]:
    """Return the likelihood of rows of one length, each a document of its own, and the 95 % interval of the loss.

    Args:
        lm: the model.
        rows: (N, 1 + T) ids; the first of each row is context only.
    """
    T = rows.shape[1] - 1
    at_once = max(1, _ROW_TOKENS // T)
    sums: list[np.ndarray] = []
    device = next(lm.model.parameters()).device
    was_training = lm.model.training
    lm.model.eval()
    with progress.task("evaluate", rows.size - len(rows), "tokens") as task:
        for first in range(0, len(rows), at_once):
            ids = torch.from_numpy(rows[first : first + at_once].astype(np.int64)).to(device)
            with parallel.autocast(lm.device_context):
                nats = lm.model.token_nll(ids[:, :-1], ids[:, 1:])
            sums.append(nats.double().sum(1).cpu().numpy())
            task.advance(nats.numel())
    lm.model.train(was_training)
    per_row = np.concatenate(sums)
    loss = float(per_row.sum() / (len(rows) * T))
    return Likelihood.of(loss, 0.0, 0), ratio_interval(per_row, np.full(len(rows), T))
