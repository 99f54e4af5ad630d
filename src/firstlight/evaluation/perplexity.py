"""The likelihood of texts and of rows of equal length under a model, in windows and batches."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from firstlight import parallel, progress
from firstlight.errors import UsageError
from firstlight.evaluation.likelihood import Likelihood
from firstlight.lm import LM, score_windows
from firstlight.statistics import ratio_interval
from firstlight.types import Document, Encoder, UnknownText

_BATCH_CHARACTERS = 1 << 20
_BATCH_TOKENS = 8192  # of one forward pass


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text as a sequence of ids, with end-of-text before and after each document.

    Attributes:
        name: of the text.
        ids: 1-D; the first is context only.
        n_bytes: UTF-8 bytes of the text.
        unknown: what is unknown in it.
    """

    name: str
    ids: np.ndarray
    n_bytes: int
    unknown: UnknownText = UnknownText()


def encode_text(
    name: str, documents: Iterable[Document], encoder: Encoder, separator: int | None = None
) -> EncodedText:
    """Encode documents into one sequence; a long document that arrives in pieces is encoded as a whole.

    Args:
        name: of the text.
        documents: in order.
        encoder: the tokenizer.
        separator: the token before and after each document; by default end-of-text.

    Raises:
        UsageError: a document is not text.
    """
    separator = encoder.eot_id if separator is None else separator
    parts, n_bytes, unknown = [np.array([separator], dtype=np.int32)], 0, UnknownText()
    for pieces in _pieces(documents, encoder.split_point):
        n_bytes += sum(len(text.encode("utf-8", "surrogatepass")) for text, _ in pieces)
        encoded = encoder.encode_counted([text for text, _ in pieces])
        ends = encoded.counts.cumsum()[[last for _, last in pieces]]
        parts.append(np.insert(encoded.ids, ends, separator))
        unknown += encoded.unknown
    return EncodedText(name, np.concatenate(parts), n_bytes, unknown)


def join_ids(name: str, documents: Iterable[Document], eot_id: int) -> EncodedText:
    """Join documents of ids into one sequence, with ``eot_id`` before and after each."""
    end = np.array([eot_id], dtype=np.int32)
    parts = [end]
    for document in documents:
        assert isinstance(document.content, np.ndarray)
        parts += [document.content] if document.continues else [document.content, end]
    return EncodedText(name, np.concatenate(parts), 0)


def _pieces(documents: Iterable[Document], cut: Callable[[str], int]) -> Iterator[list[tuple[str, bool]]]:
    """Group texts by the megabyte, each with whether it is the last piece of its document."""
    batch: list[tuple[str, bool]] = []
    held, size, least, ready, unfinished = list[str](), 0, 0, 0, False
    for document in documents:
        if not isinstance(document.content, str):
            raise UsageError("a document is not text", where=document.source)
        held.append(document.content)
        size += len(document.content)
        unfinished = document.continues
        # After a failed search the text must double before the next one, so that the search is linear in total.
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


def text_likelihood(lm: LM, text: EncodedText, *, stride: int) -> tuple[Likelihood, tuple[float, float] | None]:
    """Compute the likelihood of a text under a model, and the 95 % interval of its loss over windows.

    Args:
        lm: the model.
        text: at least two ids.
        stride: tokens between the starts of two windows.
    """
    text_bytes = None if lm.tokenizer is None else lm.tokenizer.text_bytes(text.unknown, len(text.ids) - 1)
    sums, counts, text_nats, n_bytes, n_characters = [], [], 0.0, 0.0, 0.0
    with progress.task("evaluate", len(text.ids) - 1, "tokens") as task:
        for window in score_windows(lm.model, text.ids, stride=stride, device_context=lm.device_context):
            nats = window.nll.astype(np.float64)
            targets = text.ids[1 + window.start : 1 + window.start + len(nats)]
            sums.append(nats.sum())
            counts.append(len(nats))
            if text_bytes is not None:
                lengths = text_bytes.lengths[targets]
                text_nats += float((nats + text_bytes.nats[targets])[lengths > 0].sum())
                n_bytes += float(lengths.sum())
                n_characters += 0.0 if text_bytes.characters is None else float(text_bytes.characters[targets].sum())
            task.advance(len(nats))
    loss = float(np.sum(sums) / np.sum(counts))
    likelihood = Likelihood.from_loss(loss, text_nats, round(n_bytes), round(n_characters))
    return likelihood, ratio_interval(np.array(sums), np.array(counts))


def row_likelihood(lm: LM, rows: np.ndarray) -> tuple[Likelihood, tuple[float, float] | None]:
    """Compute the likelihood of documents of one length, and the 95 % interval of the loss over documents.

    Args:
        lm: the model.
        rows: (N, 1 + T) ids; the first of each row is context only.
    """
    T = rows.shape[1] - 1
    batch_rows = max(1, _BATCH_TOKENS // T)
    sums: list[np.ndarray] = []
    device = next(lm.model.parameters()).device
    was_training = lm.model.training
    lm.model.eval()
    with progress.task("evaluate", rows.size - len(rows), "tokens") as task:
        for first in range(0, len(rows), batch_rows):
            ids = torch.from_numpy(rows[first : first + batch_rows].astype(np.int64)).to(device)
            with parallel.autocast(lm.device_context):
                nats = lm.model.token_nll(ids[:, :-1], ids[:, 1:])
            sums.append(nats.double().sum(1).cpu().numpy())
            task.advance(nats.numel())
    lm.model.train(was_training)
    per_row = np.concatenate(sums)
    loss = float(per_row.sum() / (len(rows) * T))
    return Likelihood.from_loss(loss, 0.0, 0), ratio_interval(per_row, np.full(len(rows), T))
