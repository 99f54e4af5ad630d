"""Generate images: complete the first rows of images, or sample images of each class; as grids in PNG files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.corpus import read_images
from firstlight.errors import UsageError
from firstlight.files import check_output, write_atomic, write_output
from firstlight.lm import LM, GenerateSettings
from firstlight.report.image_grid import MASKED_COLOR, encode_png, image_grid
from firstlight.shell import command_line
from firstlight.stages.generate import resolve_settings
from firstlight.stages.sequence_samples import generate_images
from firstlight.store import TokenStore
from firstlight.tokenizer import PixelCodec

_N_COMPLETED, _N_COMPLETIONS, _N_SAMPLES = 6, 4, 8
_MAX_IMAGES = 16  # completed at most
COMPLETIONS, SAMPLES = "completions.png", "samples.png"


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """A grid of generated images.

    Attributes:
        out: the PNG file.
        rows: the class of each row, or the file that was completed.
        images: number of generated images.
        ids: of each image, row by row: its first token, then its pixels.
    """

    out: Path
    rows: list[str]
    images: int
    ids: list[list[int]]


def complete_images(
    model: LM,
    image: str | Path,
    *,
    out: str | Path,
    keep: float = 0.5,
    class_name: str | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> ImageGrid:
    """Complete the first rows of images; a row of the grid shows the prompt, the completions, and the original.

    Args:
        model: a model of images.
        image: a PNG or JPEG, or an array or folder of images, of which the first 16 are used.
        out: the PNG file.
        keep: ratio of the rows that is the prompt.
        class_name: the class of the images; by default unspecified.
        overwrite: whether an existing ``out`` is replaced.
        settings: of generation; ``num_samples`` completions of each image.

    Raises:
        UsageError: not a model of images, no such class, or ``out`` exists.
    """
    check_output(Path(out), overwrite=overwrite)
    pixels = image_codec(model)
    if not 0 <= keep < 1:
        raise UsageError(
            "leaves nothing to complete" if keep >= 1 else "must be at least 0", where="--keep", found=keep
        )
    _check_class(model, pixels, class_name)
    first_token, generation = pixels.class_id(class_name), _settings(settings)
    documents = read_images(str(image), pixels.size, colored=bool(pixels.palette), limit=_MAX_IMAGES)
    originals = np.stack([pixels.encode(np.asarray(document.content)) for document in documents])
    rows, ids = _complete(model, pixels, originals, [first_token] * len(originals), keep, generation)
    write_output(Path(out), encode_png(image_grid(rows)), overwrite=overwrite)
    return ImageGrid(Path(out), [document.source for document in documents], len(ids), ids.tolist())


def sample_images(
    model: LM, *, out: str | Path, class_name: str | None = None, overwrite: bool = False, **settings: Any
) -> ImageGrid:
    """Sample images of one class, or of every class: one row per class, ``num_samples`` images in it.

    Args:
        model: a model of images.
        out: the PNG file.
        class_name: the class; by default every class.
        overwrite: whether an existing ``out`` is replaced.
        settings: of generation.

    Raises:
        UsageError: not a model of images, no such class, or ``out`` exists.
    """
    check_output(Path(out), overwrite=overwrite)
    pixels = image_codec(model)
    _check_class(model, pixels, class_name)
    names: Sequence[str | None] = (pixels.classes or [None]) if class_name is None else [class_name]
    rows, ids = _sample(model, pixels, [pixels.class_id(name) for name in names], _settings(settings))
    write_output(Path(out), encode_png(image_grid(rows)), overwrite=overwrite)
    return ImageGrid(Path(out), [name or "" for name in names], len(ids), ids.tolist())


def write_report_images(run: Path, model: LM, store: TokenStore, *, seed: int) -> None:
    """Write ``completions.png`` (of the first validation images) and ``samples.png`` into a run directory.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    pixels = image_codec(model)
    valid = store.valid.tokens.reshape(-1, pixels.sequence_length)[:_N_COMPLETED].astype(np.int64)
    settings = GenerateSettings(seed=seed, num_samples=_N_COMPLETIONS)
    rows, _ = _complete(model, pixels, valid[:, 1:], valid[:, 0].tolist(), 0.5, settings)
    write_atomic(run / COMPLETIONS, encode_png(image_grid(rows)))
    names = pixels.classes[:_N_SAMPLES] or (None,) * 2
    settings = settings.model_copy(update={"num_samples": _N_SAMPLES})
    rows, _ = _sample(model, pixels, [pixels.class_id(name) for name in names], settings)
    write_atomic(run / SAMPLES, encode_png(image_grid(rows)))


def image_codec(model: LM) -> PixelCodec:
    """Return the image codec of a model.

    Raises:
        UsageError: it is not a model of images.
    """
    if not isinstance(model.codec, PixelCodec):
        how = command_line("pretrain", "--help")
        raise UsageError("is not a model of images", where=model.source, fix=f"Train one on images. How: {how}")
    return model.codec


def _check_class(model: LM, pixels: PixelCodec, class_name: str | None) -> None:
    if class_name is not None and not pixels.classes:
        raise UsageError("was trained on images without classes", where=model.source, found=f"class {class_name}")


def _settings(given: Mapping[str, Any]) -> GenerateSettings:
    return resolve_settings({**given, "num_samples": given.get("num_samples") or _N_SAMPLES})


def _complete(
    model: LM,
    pixels: PixelCodec,
    originals: np.ndarray,
    first_tokens: Sequence[int],
    keep: float,
    settings: GenerateSettings,
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Return rows of images, and the ids of the completions: (N * num_samples, 1 + P)."""
    given, n = round(pixels.size * keep) * pixels.size, settings.num_samples
    prefixes = np.repeat(originals[:, :given], n, axis=0)
    ids = generate_images(model, pixels, np.repeat(first_tokens, n).tolist(), settings, prefixes)
    generated, complete = pixels.decode(ids[:, 1:]), pixels.decode(originals)
    halves = complete.copy()
    halves[:, given // pixels.size :] = MASKED_COLOR
    return [[halves[i], *generated[i * n : (i + 1) * n], complete[i]] for i in range(len(complete))], ids


def _sample(
    model: LM, pixels: PixelCodec, first_tokens: Sequence[int], settings: GenerateSettings
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Return a row of ``num_samples`` images for each first token, and the ids of all images."""
    n = settings.num_samples
    ids = generate_images(model, pixels, np.repeat(first_tokens, n).tolist(), settings)
    generated = pixels.decode(ids[:, 1:])
    return [list(generated[i * n : (i + 1) * n]) for i in range(len(first_tokens))], ids
