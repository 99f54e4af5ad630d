"""What a model scores: of one text, and of ids and images that are no text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from firstlight.corpus import CorpusSettings, IdSettings, ImageSettings, infer_kind
from firstlight.errors import UsageError
from firstlight.evaluation import (
    EncodedText,
    Likelihood,
    baseline_likelihoods,
    count,
    join_ids,
    position_baseline,
    row_likelihood,
    text_likelihood,
)
from firstlight.lm import LM
from firstlight.stages.sequences import open_sequences
from firstlight.store import Split, TokenStore, unigram_counts
from firstlight.tokenizer import Codec, Ids, Pixels


@dataclass(frozen=True, slots=True)
class TextResult:
    """What a model scores on one text.

    Attributes:
        interval: of the loss, or None for a single window.
        unit: what bits are counted for: a byte; where ids stand for none, a token or a dimension ("dim").
    """

    name: str
    n_tokens: int
    n_bytes: int
    model: Likelihood
    baselines: dict[str, Likelihood]
    interval: tuple[float, float] | None
    unit: str = "byte"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; of what is no text, without bytes."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.unit == "byte":
            return {key: value for key, value in held.items() if key != "unit"}
        del held["n_bytes"]
        baselines = {name: known.figures(self.unit) for name, known in self.baselines.items()}
        return {**held, "model": self.model.figures(self.unit), "baselines": baselines}


def no_text(lm: LM) -> UsageError:
    """Return the error for a model that belongs to no run, and no text was named."""
    return UsageError(
        "the model belongs to no run whose valid split could be taken", where=lm.source, fix="Name a text with --text."
    )


def score_sequences(
    lm: LM, codec: Codec, names: Sequence[str], store: TokenStore | None, stride: int
) -> Iterator[TextResult]:
    """Score ids or images, each name by itself, or the valid split of the model's run.

    Args:
        lm: the model.
        codec: what its ids mean.
        names: files, folders or globs of the model's kind; images are brought to its form.
        store: of the model's run, or None.
        stride: of ids, tokens that each window moves on by.

    Raises:
        UsageError: another kind of corpus, or nothing to score.
        CorpusError: a file is damaged, or holds ids that the model does not know.
    """
    if not names and store is None:
        raise no_text(lm)
    if isinstance(codec, Pixels):
        train = None if store is None else split_rows(store.train, codec.sequence_length)
        for name, rows in _images(codec, names, store):
            own, interval = row_likelihood(lm, rows)
            yield TextResult(
                name, rows.size - len(rows), 0, own, image_baselines(codec, train, rows), interval, codec.UNIT
            )
        return
    counts = None if store is None else unigram_counts(store.train)
    for stream in _streams(codec, names, store):
        if len(stream.ids) < 2:
            raise UsageError("holds nothing to score", where=stream.name)
        own, interval = text_likelihood(lm, stream, stride=stride)
        others = baseline_likelihoods(codec.vocab_size, counts, count(stream.ids[1:]), None)
        yield TextResult(stream.name, len(stream.ids) - 1, 0, own, others, interval, codec.UNIT)


def image_baselines(pixels: Pixels, train: np.ndarray | None, rows: np.ndarray) -> dict[str, Likelihood]:
    """Return what models would score that know nothing, how frequent values are, and that at each place.

    Args:
        pixels: what ids mean.
        train: (N, 1 + P) rows of ids, or None where they are not known.
        rows: (M, 1 + P) that are scored.
    """
    seen = None if train is None else count(train[:, 1:].reshape(-1))
    found = baseline_likelihoods(pixels.n_values, seen, count(rows[:, 1:].reshape(-1)), None)
    return (
        found if train is None else {**found, "position": position_baseline(train[:, 1:], rows[:, 1:], pixels.n_values)}
    )


def split_rows(split: Split, sequence: int) -> np.ndarray:
    """Return the documents of a split as rows (N, sequence), where all have one length."""
    return split.tokens.reshape(-1, sequence)


def _images(pixels: Pixels, names: Sequence[str], store: TokenStore | None) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        _require(name, "images")
        found = open_sequences("images", [name], CorpusSettings(), IdSettings(), ImageSettings(), known=pixels)
        yield name, np.stack([np.asarray(document.content) for document in found.sources[0].documents()])
    if not names and store is not None:
        yield "valid split", split_rows(store.valid, pixels.sequence_length)


def _streams(ids: Ids, names: Sequence[str], store: TokenStore | None) -> Iterator[EncodedText]:
    for name in names:
        _require(name, "ids")
        settings = IdSettings(vocab_size=ids.n_ids)
        found = open_sequences("ids", [name], CorpusSettings(), settings, ImageSettings(), known=ids)
        yield join_ids(name, found.sources[0].documents(), ids.eot_id)
    if not names and store is not None:
        yield EncodedText("valid split", np.asarray(store.valid.tokens), 0)


def _require(name: str, kind: str) -> None:
    found = infer_kind([name])
    if found != kind:
        raise UsageError(f"the model is one of {kind}", where=name, found=found)
