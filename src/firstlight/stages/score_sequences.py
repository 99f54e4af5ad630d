"""Likelihood metrics of one text, and of ids and images, which are not text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from firstlight.config import Settings
from firstlight.corpus import CorpusSettings, IdSettings, ImageSettings, infer_kind
from firstlight.errors import UsageError
from firstlight.evaluation import (
    EncodedText,
    Likelihood,
    baseline_likelihoods,
    count_ids,
    join_ids,
    position_baseline,
    row_likelihood,
    text_likelihood,
)
from firstlight.files.run_layout import TASKS
from firstlight.lm import LM
from firstlight.shell import command_line
from firstlight.stages.sequences import open_sequences
from firstlight.store import Split, TokenStore, unigram_counts
from firstlight.tokenizer import Codec, IdCodec, PixelCodec
from firstlight.types import UnknownText


class EvaluateSettings(Settings):
    """Settings of ``evaluate``: how files are read; the model decides the number of ids, and the size."""

    corpus: CorpusSettings = CorpusSettings()
    ids: IdSettings = IdSettings()
    image: ImageSettings = ImageSettings()

    def unused_settings(self) -> dict[str, str]:
        """Return what the model decides."""
        return dict.fromkeys(("ids.vocab_size", *UNUSED_OF_IMAGES), "is decided by the model")


# The settings of images that a model of images decides itself.
UNUSED_OF_IMAGES = tuple(f"image.{name}" for name in ("size", "colors", "levels", "palette", "class_dropout"))


@dataclass(frozen=True, slots=True)
class TextResult:
    """Likelihood metrics of a model on one text.

    Attributes:
        name: of the text.
        n_tokens: number of targets.
        n_bytes: UTF-8 bytes of the text.
        model: metrics of the model.
        baselines: metrics of models without context, by name.
        interval: 95 % interval of the loss, or None for a single window.
        unit: of bits per unit: byte; where ids do not stand for bytes, token or dimension ("dim").
        unknown: what is unknown in the text.
    """

    name: str
    n_tokens: int
    n_bytes: int
    model: Likelihood
    baselines: dict[str, Likelihood]
    interval: tuple[float, float] | None
    unit: str = "byte"
    unknown: UnknownText = UnknownText()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; without bytes where ids do not stand for bytes."""
        table = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "unknown"}
        if self.unit == "byte":
            del table["unit"]
            return table | self.unknown.to_json(self.n_tokens)
        del table["n_bytes"]
        baselines = {name: likelihood.metrics(self.unit) for name, likelihood in self.baselines.items()}
        return {**table, "model": self.model.metrics(self.unit), "baselines": baselines}


def no_text_error(lm: LM) -> UsageError:
    """Return the error for a model without a validation split of text, where no text is given."""
    if lm.source is not None and (lm.source / TASKS).is_file():
        return UsageError(
            "is fine-tuned: its scores are in the run's evaluation.json and report.html",
            where=lm.source,
            fix="Name a text with --text for the loss of its language model. How labels are predicted: "
            + command_line("predict", "--help"),
        )
    return UsageError(
        "the model is not in a run with a validation split", where=lm.source, fix="Name a text with --text."
    )


def score_sequences(
    lm: LM, codec: Codec, names: Sequence[str], store: TokenStore | None, stride: int, settings: EvaluateSettings
) -> Iterator[TextResult]:
    """Score ids or images, each name by itself, or the validation split of the model's run.

    Args:
        lm: the model.
        codec: the meaning of its ids.
        names: files, folders or globs of the model's kind; images are resized and quantized as the model's were.
        store: of the model's run, or None.
        stride: of ids, tokens between the starts of two windows.
        settings: how the files are read.

    Raises:
        UsageError: the corpus is of another kind, or there is nothing to score.
        CorpusError: a file is damaged, or contains unknown ids.
    """
    if not names and store is None:
        raise no_text_error(lm)
    if isinstance(codec, PixelCodec):
        train = None if store is None else split_rows(store.train, codec.sequence_length)
        for name, rows in _images(codec, names, store, settings):
            likelihood, interval = row_likelihood(lm, rows)
            baselines = image_baselines(codec, train, rows)
            yield TextResult(name, rows.size - len(rows), 0, likelihood, baselines, interval, codec.UNIT)
        return
    counts = None if store is None else unigram_counts(store.train)
    for ids in _id_sequences(codec, names, store, settings):
        if len(ids.ids) < 2:
            raise UsageError("contains nothing to score", where=ids.name)
        likelihood, interval = text_likelihood(lm, ids, stride=stride)
        baselines = baseline_likelihoods(codec.vocab_size, counts, count_ids(ids.ids[1:]), None)
        yield TextResult(ids.name, len(ids.ids) - 1, 0, likelihood, baselines, interval, codec.UNIT)


def image_baselines(pixels: PixelCodec, train: np.ndarray | None, rows: np.ndarray) -> dict[str, Likelihood]:
    """Compute the baselines of images: uniform, unigram, and frequencies at each position.

    Args:
        pixels: the meaning of the ids.
        train: (N, 1 + P) rows of ids, or None where they are unknown.
        rows: (M, 1 + P) that are scored.
    """
    train_counts = None if train is None else count_ids(train[:, 1:].reshape(-1))
    found = baseline_likelihoods(pixels.n_values, train_counts, count_ids(rows[:, 1:].reshape(-1)), None)
    if train is not None:
        found["position"] = position_baseline(train[:, 1:], rows[:, 1:], pixels.n_values)
    return found


def split_rows(split: Split, sequence_length: int) -> np.ndarray:
    """Return the documents of a split as rows (N, sequence_length), where all have one length."""
    return split.tokens.reshape(-1, sequence_length)


def _images(
    pixels: PixelCodec, names: Sequence[str], store: TokenStore | None, settings: EvaluateSettings
) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        _check_kind(name, "images", settings)
        found = open_sequences("images", [name], settings.corpus, settings.ids, settings.image, codec=pixels)
        yield name, np.stack([np.asarray(document.content) for document in found.sources[0].documents()])
    if not names and store is not None:
        yield "validation split", split_rows(store.valid, pixels.sequence_length)


def _id_sequences(
    codec: IdCodec, names: Sequence[str], store: TokenStore | None, settings: EvaluateSettings
) -> Iterator[EncodedText]:
    for name in names:
        _check_kind(name, "ids", settings)
        found = open_sequences("ids", [name], settings.corpus, settings.ids, settings.image, codec=codec)
        yield join_ids(name, found.sources[0].documents(), codec.eot_id)
    if not names and store is not None:
        yield EncodedText("validation split", np.asarray(store.valid.tokens), 0)


def _check_kind(name: str, kind: str, settings: EvaluateSettings) -> None:
    found = infer_kind([name], settings.corpus)
    if found != kind:
        raise UsageError(f"the model was trained on {kind}", where=name, found=found)
