"""``evaluate``: loss, perplexity and bits per byte on any text, beside what models without context score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import UsageError
from firstlight.evaluate import Likelihood, Stream, baselines, measure, stream_of
from firstlight.files import MANIFEST
from firstlight.lm import LM
from firstlight.store import TokenStore, unigram


@dataclass(frozen=True, slots=True)
class TextResult:
    """What a model scores on one text; ``interval`` is the loss's, or None for a single window."""

    name: str
    n_tokens: int
    n_bytes: int
    model: Likelihood
    baselines: dict[str, Likelihood]
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was evaluated, with which stride, and what came out."""

    model: Path
    stride: int
    texts: list[TextResult]


def evaluate(
    model: str | Path | LM, text: Sequence[str] = (), *, stride: int | None = None, device: str = "auto"
) -> Evaluation:
    """Score texts, or the valid split of the run that the model belongs to.

    Args:
        model: where a model lies, or a loaded one.
        text: files, folders or named corpora; each is scored by itself.
        stride: tokens that each window moves on by; by default the block size.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UsageError: no text is given and the model belongs to no run; or a stride beyond the block size.
    """
    lm = model if isinstance(model, LM) else LM.load(model, device=device)
    step = stride or lm.config.block_size
    if step > lm.config.block_size:
        raise UsageError("is longer than the model sees", where="stride", found=step, expected=f"at most {lm.config.block_size}")
    store = _store_of(lm)
    counts = None if store is None else unigram(store.train)
    return Evaluation(lm.source or Path(), step, [_score(lm, s, step, counts) for s in _streams(lm, text, store)])


def _store_of(lm: LM) -> TokenStore | None:
    """Return the token store of the run that a checkpoint lies in, if it is the tokenizer's own."""
    if lm.source is None or lm.tokenizer is None:
        return None
    folder = lm.source.parent.parent / "data"
    if not (folder / MANIFEST).is_file():
        return None
    store = TokenStore.open(folder)
    return store if store.tokenizer_hash == lm.tokenizer.hash else None


def _streams(lm: LM, text: Sequence[str], store: TokenStore | None) -> list[Stream]:
    if text:
        if lm.tokenizer is None:
            raise UsageError("the model has no tokenizer, so it reads no text", where=lm.source)
        corpus = open_corpus(list(text), CorpusSettings())
        return [stream_of(source.name, source.documents(), lm.tokenizer) for source in corpus.sources]
    if store is None:
        raise UsageError(
            "the model belongs to no run whose valid split could be taken", where=lm.source, fix="Name a text with --text."
        )
    return [Stream("valid split", np.asarray(store.valid.tokens), store.valid.n_bytes)]


def _score(lm: LM, stream: Stream, stride: int, counts: np.ndarray | None) -> TextResult:
    if len(stream.ids) < 2:
        raise UsageError("holds no token to score", where=stream.name)
    own, interval = measure(lm, stream, stride=stride)
    seen = np.bincount(stream.ids[1:])
    n = len(stream.ids) - 1
    without_context = {
        name: Likelihood(loss, math.exp(min(loss, 700.0)), loss * n / math.log(2) / stream.n_bytes if stream.n_bytes else None)
        for name, loss in baselines(lm.config.vocab_size or 1, counts, seen).items()
    }
    return TextResult(stream.name, n, stream.n_bytes, own, without_context, interval)
