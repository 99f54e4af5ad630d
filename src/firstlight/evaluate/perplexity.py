"""The likelihood of a text: loss, perplexity, and bits per byte, which is comparable across tokenizers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from firstlight import progress
from firstlight.lm import LM, score_windows
from firstlight.statistics import ratio_interval
from firstlight.types import Document, Encoder


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a text is.

    Attributes:
        loss: nats a token, end-of-text included.
        perplexity: exp of the loss.
        bits_per_byte: of the text's own bytes; end-of-text counts in neither. None where ids stand for no bytes.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None


@dataclass(frozen=True, slots=True)
class Stream:
    """A text as one row of ids, with end-of-text before and after each document.

    Attributes:
        ids: 1-D; the first is context only.
        n_bytes: UTF-8 bytes of the text.
    """

    name: str
    ids: np.ndarray
    n_bytes: int


def stream_of(name: str, documents: Iterable[Document], encoder: Encoder) -> Stream:
    """Encode documents into one stream."""
    eot = np.array([encoder.eot_id], dtype=np.int32)
    parts, n_bytes, held = [eot], 0, ""
    for document in documents:
        text = held + str(document.content)
        n_bytes += len(str(document.content).encode("utf-8"))
        at = encoder.cut(text) if document.continues else len(text)
        held = text[at:]
        parts.append(encoder.encode_batch([text[:at]])[0])
        if not document.continues:
            parts.append(eot)
    return Stream(name, np.concatenate(parts), n_bytes)


def measure(lm: LM, stream: Stream, *, stride: int) -> tuple[Likelihood, tuple[float, float] | None]:
    """Return the likelihood of a stream under a model, and the 95 % interval of its loss over windows.

    Args:
        lm: the model.
        stream: at least two ids.
        stride: tokens that each window moves on by.
    """
    lengths = None if lm.tokenizer is None else lm.tokenizer.byte_lengths()
    sums, counts, text_nats, n_bytes = [], [], 0.0, 0
    with progress.task("evaluate", len(stream.ids) - 1, "tokens") as task:
        for window in score_windows(lm.model, stream.ids, stride=stride, place=lm.place):
            nats = window.nats.astype(np.float64)
            targets = stream.ids[1 + window.first : 1 + window.first + len(nats)]
            sums.append(nats.sum())
            counts.append(len(nats))
            if lengths is not None:
                text_nats += float(nats[lengths[targets] > 0].sum())
                n_bytes += int(lengths[targets].sum())
            task.advance(len(nats))
    loss = float(np.sum(sums) / np.sum(counts))
    bits = text_nats / math.log(2) / n_bytes if n_bytes else None
    interval = ratio_interval(np.array(sums), np.array(counts, dtype=np.float64))
    return Likelihood(loss, math.exp(min(loss, 700.0)), bits), interval
