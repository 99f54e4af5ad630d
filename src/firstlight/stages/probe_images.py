"""``probe`` of a model of images: what each layer knows of the classes, beside what the pixels alone say.

The images that the classifier is fitted on are of the run's own training split. No class is told to the model: the
start token stands before each image. The last pixel is not read, since nothing follows it.
"""

from pathlib import Path

import numpy as np
import torch

from firstlight.corpus import CorpusSettings, ImageSettings, open_images
from firstlight.errors import UsageError
from firstlight.finetuning.preprocess import EncodedExample
from firstlight.finetuning.probe import Pool, ProbeResult, features, probe, raw_pixels
from firstlight.lm import LM
from firstlight.stages.evaluate import find_token_store
from firstlight.stages.images import image_codec
from firstlight.stages.score_sequences import split_rows
from firstlight.stages.sequences import row_of
from firstlight.tokenizer import Pixels


def probe_images(lm: LM, run: str | Path, images: str | Path | None, *, pool: Pool, most: int) -> ProbeResult:
    """Fit a linear classifier on every layer's hidden states, and on pixels.

    Args:
        lm: a model of images, which lies in its run.
        run: as the user gave it.
        images: labelled images to score on; by default the run's valid split.
        pool: mean over positions, or the last position.
        most: images to fit on, and to score on.

    Raises:
        UsageError: the images have no classes, or the run's store is gone.
    """
    pixels = image_codec(lm)
    if not pixels.classes:
        raise UsageError("was trained on images without classes", where=run)
    store = find_token_store(lm, needed=True)
    if store is None:
        raise UsageError("lies in no run whose images could be taken", where=run, expected="a run with its token store")
    seen = _some(split_rows(store.train, pixels.sequence_length), most)
    if images is None:
        unseen, name = _some(split_rows(store.valid, pixels.sequence_length), most), "valid split"
    else:
        unseen, name = _some(_read(str(images), pixels), most), str(images)
    labels, true = (torch.from_numpy(part[:, 0] - pixels.start_id - 1) for part in (seen, unseen))
    states = [features(lm.model, _rows(part, pixels), lm.device_context, pool) for part in (seen, unseen)]
    n = len(pixels.classes)
    layers = probe(states[0], labels, states[1], true, n)
    plain = [torch.from_numpy(_flat(part, pixels)) for part in (seen, unseen)]
    majority = float((true == labels.mode().values).float().mean())
    raw = raw_pixels(plain[0], labels, plain[1], true, n)
    return ProbeResult(str(run), name, pool, len(seen), majority, layers, raw)


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """Return evenly spread rows, as int64."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)].astype(np.int64)


def _read(name: str, pixels: Pixels) -> np.ndarray:
    settings = ImageSettings(size=pixels.size, colors="palette" if pixels.palette else "grey")
    found = open_images([name], settings, CorpusSettings())
    if not found.classes:
        raise UsageError("has no labels", where=name, expected="sub-folders, or a file of labels beside it")
    return np.stack([row_of(document, pixels) for document in found.corpus])


def _rows(images: np.ndarray, pixels: Pixels) -> list[EncodedExample]:
    inputs = images[:, :-1].astype(np.int32)
    inputs[:, 0] = pixels.start_id
    return [EncodedExample((ids,), (len(ids) - 1,), None, "") for ids in inputs]


def _flat(images: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Return pixels as numbers, one a level of grey, three a colour: (N, P) float32."""
    decoded = pixels.decode(images[:, 1:])
    return (decoded if pixels.palette else decoded[..., 0]).reshape(len(images), -1).astype(np.float32)
