"""``probe`` of a model of images: linear probes of its layers for the images' classes, and of the raw pixels.

The classifiers are fitted on images of the run's own training split. The model is not given the class: each image
starts with the start token. The last pixel is not an input, since nothing is predicted after it.
"""

from pathlib import Path

import numpy as np
import torch

from firstlight.config import Settings
from firstlight.corpus import CorpusSettings, ImageSettings, open_images
from firstlight.errors import UsageError
from firstlight.finetuning import EncodedExample
from firstlight.finetuning.probe import Pool, ProbeResult, features, fit_probes, fit_raw_pixels
from firstlight.lm import LM
from firstlight.stages.evaluate import find_token_store
from firstlight.stages.images import image_codec
from firstlight.stages.score_sequences import UNUSED_OF_IMAGES, split_rows
from firstlight.stages.sequences import encode_image
from firstlight.tokenizer import PixelCodec


class ProbeSettings(Settings):
    """Settings of ``probe`` for images: how they are read."""

    corpus: CorpusSettings = CorpusSettings()
    image: ImageSettings = ImageSettings()

    def unused_settings(self) -> dict[str, str]:
        """Return what the model decides."""
        return dict.fromkeys(UNUSED_OF_IMAGES, "is decided by the model")


def probe_images(
    lm: LM, run: str | Path, images: str | Path | None, settings: ProbeSettings, *, pool: Pool, max_images: int
) -> ProbeResult:
    """Fit a linear classifier on every layer's hidden states, and on pixels.

    Args:
        lm: a model of images, in its run.
        run: as the user gave it.
        images: labelled images to evaluate on; by default the run's validation split.
        settings: how these are read.
        pool: mean over positions, or the last position.
        max_images: limit of images to fit on, and to evaluate on.

    Raises:
        UsageError: the images have no classes, or the run's store is gone.
    """
    pixels = image_codec(lm)
    if not pixels.classes:
        raise UsageError("was trained on images without classes", where=run)
    store = find_token_store(lm, needed=True)
    if store is None:
        raise UsageError("has no training images", where=run, expected="a run with its token store")
    train = _sample(split_rows(store.train, pixels.sequence_length), max_images)
    if images is None:
        valid, name = _sample(split_rows(store.valid, pixels.sequence_length), max_images), "validation split"
    else:
        valid, name = _sample(_read(str(images), pixels, settings), max_images), str(images)
    labels, true = (torch.from_numpy(part[:, 0] - pixels.start_id - 1) for part in (train, valid))
    states = [features(lm.model, _rows(part, pixels), lm.device_context, pool) for part in (train, valid)]
    n = len(pixels.classes)
    layers = fit_probes(states[0], labels, states[1], true, n)
    pixel_values = [torch.from_numpy(_flat(part, pixels)) for part in (train, valid)]
    majority = float((true == labels.mode().values).float().mean())
    raw = fit_raw_pixels(pixel_values[0], labels, pixel_values[1], true, n)
    return ProbeResult(str(run), name, pool, len(train), majority, layers, raw)


def _sample(rows: np.ndarray, max_rows: int) -> np.ndarray:
    """Return evenly spaced rows, as int64."""
    return rows[np.linspace(0, len(rows) - 1, min(max_rows, len(rows))).astype(np.int64)].astype(np.int64)


def _read(name: str, pixels: PixelCodec, settings: ProbeSettings) -> np.ndarray:
    image = settings.image.model_copy(update={"size": pixels.size, "colors": "palette" if pixels.palette else "grey"})
    found = open_images([name], image, settings.corpus)
    if not found.classes:
        raise UsageError("has no labels", where=name, expected="sub-folders, or a file of labels next to it")
    return np.stack([encode_image(document, pixels) for document in found.corpus])


def _rows(images: np.ndarray, pixels: PixelCodec) -> list[EncodedExample]:
    inputs = images[:, :-1].astype(np.int32)
    inputs[:, 0] = pixels.start_id
    return [EncodedExample((ids,), (len(ids) - 1,), None, "") for ids in inputs]


def _flat(images: np.ndarray, pixels: PixelCodec) -> np.ndarray:
    """Return pixels as numbers, one per grey level or three per colour: (N, P) float32."""
    decoded = pixels.decode(images[:, 1:])
    return (decoded if pixels.palette else decoded[..., 0]).reshape(len(images), -1).astype(np.float32)
