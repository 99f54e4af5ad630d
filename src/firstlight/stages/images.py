"""Pictures that a model of images draws: halves completed, and images of each class; as grids in PNG files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.corpus import read_images
from firstlight.errors import UsageError
from firstlight.files import write_atomic
from firstlight.lm import LM, GenerateSettings
from firstlight.report.pictures import UNKNOWN, grid, png
from firstlight.stages.generate import settings_of
from firstlight.stages.sequence_samples import draw
from firstlight.store import TokenStore
from firstlight.tokenizer import Pixels

_COMPLETED, _COMPLETIONS, _DRAWN = 6, 4, 8
_MOST = 16  # images of an array that are completed
COMPLETIONS, SAMPLES = "completions.png", "samples.png"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A grid of images that a model drew.

    Attributes:
        rows: what each row shows: the class, or the file that was completed.
        ids: of each image, row by row: its first token, then its pixels.
    """

    out: Path
    rows: list[str]
    images: int
    ids: list[list[int]]


def complete(
    model: LM,
    image: str | Path,
    *,
    out: str | Path,
    keep: float = 0.5,
    of_class: str | None = None,
    **settings: Any,
) -> Drawn:
    """Go on from the first rows of images; a row of the grid shows what was given, completions, and the original.

    Args:
        model: a model of images.
        image: a PNG or JPEG, or an array or folder of images, of which the first 16 are taken.
        out: the PNG file.
        keep: share of the rows that is given.
        of_class: the class that it is said to be; by default none is said.
        settings: of generation; ``num_samples`` completions each.

    Raises:
        UsageError: another kind of model, or no such class.
    """
    pixels = pixels_of(model)
    if not 0 <= keep < 1:
        raise UsageError("leaves nothing to complete" if keep >= 1 else "is no share", where="--keep", found=keep)
    first, chosen = pixels.first(of_class), _settings(settings)
    documents = read_images(str(image), pixels.size, colored=bool(pixels.palette), limit=_MOST)
    originals = np.stack([pixels.encode(np.asarray(document.content)) for document in documents])
    rows, ids = _completed(model, pixels, originals, [first] * len(originals), keep, chosen)
    write_atomic(Path(out), png(grid(rows)))
    return Drawn(Path(out), [document.source for document in documents], len(ids), ids.tolist())


def sample(model: LM, *, out: str | Path, of_class: str | None = None, **settings: Any) -> Drawn:
    """Draw images of one class, or of every class: a row each, ``num_samples`` in it.

    Args:
        model: a model of images.
        out: the PNG file.
        of_class: the class; by default each.
        settings: of generation.

    Raises:
        UsageError: another kind of model, or no such class.
    """
    pixels = pixels_of(model)
    names: Sequence[str | None] = (pixels.classes or [None]) if of_class is None else [of_class]
    rows, ids = _drawn(model, pixels, [pixels.first(name) for name in names], _settings(settings))
    write_atomic(Path(out), png(grid(rows)))
    return Drawn(Path(out), [name or "" for name in names], len(ids), ids.tolist())


def draw_for_report(run: Path, model: LM, store: TokenStore, *, seed: int) -> None:
    """Write ``completions.png``, of the first images of the valid split, and ``samples.png`` into a run directory.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    pixels = pixels_of(model)
    valid = store.valid.tokens.reshape(-1, pixels.sequence_length)[:_COMPLETED].astype(np.int64)
    settings = GenerateSettings(seed=seed, num_samples=_COMPLETIONS)
    rows, _ = _completed(model, pixels, valid[:, 1:], valid[:, 0].tolist(), 0.5, settings)
    write_atomic(run / COMPLETIONS, png(grid(rows)))
    names = pixels.classes[:_DRAWN] or (None,) * 2
    settings = settings.model_copy(update={"num_samples": _DRAWN})
    rows, _ = _drawn(model, pixels, [pixels.first(name) for name in names], settings)
    write_atomic(run / SAMPLES, png(grid(rows)))


def pixels_of(model: LM) -> Pixels:
    """Return what a model's ids mean.

    Raises:
        UsageError: they are no pixels.
    """
    if not isinstance(model.codec, Pixels):
        raise UsageError("is no model of images", where=model.source, fix="Train one: firstlight pretrain IMAGES")
    return model.codec


def _settings(given: Mapping[str, Any]) -> GenerateSettings:
    return settings_of({**given, "num_samples": given.get("num_samples") or _DRAWN})


def _completed(
    model: LM, pixels: Pixels, originals: np.ndarray, first: Sequence[int], keep: float, settings: GenerateSettings
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Return rows of images, and the ids of the completions (N * num_samples, 1 + P)."""
    given, n = round(pixels.size * keep) * pixels.size, settings.num_samples
    again = np.repeat(originals[:, :given], n, axis=0)
    ids = draw(model, pixels, np.repeat(first, n).tolist(), settings, again)
    shown, whole = pixels.decode(ids[:, 1:]), pixels.decode(originals)
    halves = whole.copy()
    halves[:, given // pixels.size :] = UNKNOWN
    return [[halves[i], *shown[i * n : (i + 1) * n], whole[i]] for i in range(len(whole))], ids


def _drawn(
    model: LM, pixels: Pixels, first: Sequence[int], settings: GenerateSettings
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Return a row of ``num_samples`` images for each first token, and the ids of all."""
    n = settings.num_samples
    ids = draw(model, pixels, np.repeat(first, n).tolist(), settings)
    shown = pixels.decode(ids[:, 1:])
    return [list(shown[i * n : (i + 1) * n]) for i in range(len(first))], ids
