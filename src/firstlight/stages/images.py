"""Generate images as PNG files: complete the first rows of images, or sample images of each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import progress
from firstlight.corpus import read_images, read_upper_part
from firstlight.errors import UsageError
from firstlight.files import check_output, is_stream, write_atomic, write_output
from firstlight.lm import LM, GenerateSettings
from firstlight.report.image_grid import MASKED_COLOR, encode_png, image_grid
from firstlight.shell import command_line
from firstlight.stages.generate import resolve_settings
from firstlight.stages.sequence_samples import generate_images
from firstlight.store import TokenStore
from firstlight.tokenizer import PixelCodec

_N_COMPLETED, _N_COMPLETIONS, _N_SAMPLES = 6, 4, 8
_MAX_IMAGES = 16  # completed at most
_KEEP = 0.5  # of the rows
COMPLETIONS, SAMPLES = "completions.png", "samples.png"


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """Generated images.

    Attributes:
        out: the PNG file that was named.
        rows: the class of each row, or the file that was completed.
        images: number of generated images.
        ids: of each image, row by row: its first token, then its pixels.
        files: the PNG files that were written: ``out``, or without a grid one for each image.
    """

    out: Path
    rows: list[str]
    images: int
    ids: list[list[int]]
    files: list[Path]


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Images to complete: the ``pixels`` (N, K) that are given, and the ``originals`` (N, P) where they are known."""

    names: list[str]
    pixels: np.ndarray
    originals: np.ndarray | None


def complete_images(
    model: LM,
    image: str | Path,
    *,
    out: str | Path,
    keep: float | None = None,
    rows: int | None = None,
    class_name: str | None = None,
    grid: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> ImageGrid:
    """Complete images from their first rows.

    Of a whole image the first rows are given; a picture that is the upper part of one is given as it is: one as wide as
    the model's images with fewer rows, or one that is twice as wide as high.

    Args:
        model: a model of images.
        image: a PNG or JPEG, or an array or folder of images, of which the first 16 are used.
        out: the PNG file; without ``grid`` several images are OUT-1.png, OUT-2.png and so on.
        keep: fraction of the rows that is given; by default a half.
        rows: number of rows that are given, instead of ``keep``.
        class_name: the class of the images; by default unspecified.
        grid: write one picture of all: in a row the given part, the completions, and the original where it is whole.
        overwrite: whether an existing ``out`` is replaced.
        settings: of generation; ``num_samples`` completions of each image, by default 8 in a grid and else one.

    Raises:
        UsageError: not a model of images, no such class, or ``out`` exists.
    """
    check_output(Path(out), overwrite=overwrite)
    pixels = image_codec(model)
    if keep is not None and rows is not None:
        raise UsageError("one of the two says how many rows are given", where="--keep --rows", fix="Leave one out.")
    if keep is not None and not 0 <= keep < 1:
        raise UsageError(
            "leaves nothing to complete" if keep >= 1 else "must be at least 0", where="--keep", found=keep
        )
    if rows is not None and not 0 <= rows < pixels.size:
        raise UsageError("leaves nothing to complete", where="--rows", found=rows, expected=f"0 to {pixels.size - 1}")
    _check_class(model, pixels, class_name)
    generation = _settings(settings, _N_SAMPLES if grid else 1)
    if rows is None and keep is not None:
        rows = round(pixels.size * keep)
    prompts = _read_prompts(image, pixels, rows)
    n = len(prompts.names) * generation.num_samples
    files = [Path(out)] if grid or n == 1 else _numbered(Path(out), n, overwrite=overwrite)
    first_tokens = [pixels.class_id(class_name)] * len(prompts.names)
    drawn, ids = _complete(model, pixels, prompts, first_tokens, generation)
    # Without a grid: the completions alone, pixel for pixel.
    pictures = (
        [image_grid(drawn)] if grid else [image for row in drawn for image in row[1 : 1 + generation.num_samples]]
    )
    for file, picture in zip(files, pictures, strict=True):
        write_output(file, encode_png(picture), overwrite=overwrite)
    return ImageGrid(Path(out), prompts.names, len(ids), ids.tolist(), files)


def _numbered(out: Path, n: int, *, overwrite: bool) -> list[Path]:
    """Return the names of several pictures, which are checked."""
    if is_stream(out):
        raise UsageError(f"{n} pictures need a file each", where=out, fix="Add --grid for one picture of all.")
    files = [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(1, n + 1)]
    for file in files:
        check_output(file, overwrite=overwrite)
    return files


def _read_prompts(image: str | Path, pixels: PixelCodec, rows: int | None) -> _Prompts:
    """Read the given pixels of images: ``rows`` rows of whole ones, by default a half or what a part of one has."""
    colored = bool(pixels.palette)
    part = read_upper_part(str(image), pixels.size, colored=colored) if rows is None else None
    if part is not None:
        progress.notice(
            f"{image}: the upper {len(part)} of {pixels.size} rows; {pixels.size - len(part)} are generated"
        )
        return _Prompts([str(image)], pixels.encode(part)[None], None)
    rows = round(pixels.size * _KEEP) if rows is None else rows
    documents = read_images(str(image), pixels.size, colored=colored, limit=_MAX_IMAGES)
    originals = np.stack([pixels.encode(np.asarray(document.content)) for document in documents])
    return _Prompts([document.source for document in documents], originals[:, : rows * pixels.size], originals)


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
    generation = _settings(settings, _N_SAMPLES)
    rows, ids = _sample(model, pixels, [pixels.class_id(name) for name in names], generation)
    write_output(Path(out), encode_png(image_grid(rows)), overwrite=overwrite)
    return ImageGrid(Path(out), [name or "" for name in names], len(ids), ids.tolist(), [Path(out)])


def write_report_images(run: Path, model: LM, store: TokenStore, *, seed: int) -> None:
    """Write ``completions.png`` (of the first validation images) and ``samples.png`` into a run directory.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    pixels = image_codec(model)
    valid = store.valid.tokens.reshape(-1, pixels.sequence_length)[:_N_COMPLETED].astype(np.int64)
    settings = GenerateSettings(seed=seed, num_samples=_N_COMPLETIONS)
    given = round(pixels.size * _KEEP) * pixels.size
    prompts = _Prompts([""] * len(valid), valid[:, 1 : 1 + given], valid[:, 1:])
    rows, _ = _complete(model, pixels, prompts, valid[:, 0].tolist(), settings)
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


def _settings(given: Mapping[str, Any], num_samples: int) -> GenerateSettings:
    return resolve_settings({**given, "num_samples": given.get("num_samples") or num_samples})


def _complete(
    model: LM, pixels: PixelCodec, prompts: _Prompts, first_tokens: Sequence[int], settings: GenerateSettings
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Return rows of images (given part, completions, original), and the completions' ids: (N * num_samples, 1 + P)."""
    given, n = prompts.pixels.shape[1], settings.num_samples
    prefixes = np.repeat(prompts.pixels, n, axis=0)
    ids = generate_images(model, pixels, np.repeat(first_tokens, n).tolist(), settings, prefixes)
    generated = pixels.decode(ids[:, 1:])
    parts = generated[::n].copy()
    parts[:, given // pixels.size :] = MASKED_COLOR
    whole = None if prompts.originals is None else pixels.decode(prompts.originals)
    rows = [
        [part, *generated[i * n : (i + 1) * n], *(() if whole is None else (whole[i],))] for i, part in enumerate(parts)
    ]
    return rows, ids


def _sample(
    model: LM, pixels: PixelCodec, first_tokens: Sequence[int], settings: GenerateSettings
) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Return a row of ``num_samples`` images for each first token, and the ids of all images."""
    n = settings.num_samples
    ids = generate_images(model, pixels, np.repeat(first_tokens, n).tolist(), settings)
    generated = pixels.decode(ids[:, 1:])
    return [list(generated[i * n : (i + 1) * n]) for i in range(len(first_tokens))], ids
