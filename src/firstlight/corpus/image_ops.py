"""Read an image with Pillow, center-crop it to a square, and resize it by averaging areas."""

import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from firstlight.errors import CorpusError, MissingExtra

# More pixels than any camera's image; a file of a few bytes may claim any number.
_MAX_PIXELS = 100_000_000
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def read_image(path: Path) -> np.ndarray:
    """Read a PNG or JPEG, upright and on a white background: (H, W) uint8 if it is grey, else (H, W, 3).

    Raises:
        CorpusError: it is damaged, of another format, or too large.
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtra("reading PNG and JPEG", "images") from error
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            W, H = file.size
            if W * H > _MAX_PIXELS:
                raise CorpusError("is too large", where=path, found=f"{W} × {H} pixels")
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits per pixel, of which Pillow would keep the lowest eight
                return (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise CorpusError(f"is not a readable PNG or JPEG: {' '.join(str(error).split())[:120]}", where=path) from error


def center_crop_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Crop the central square and resize it by averaging areas: (size, size[, 3]) uint8."""
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    return resize(square, size, size)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image by averaging areas: (height, width[, 3]) uint8."""
    rows, columns = _area_weights(pixels.shape[0], height), _area_weights(pixels.shape[1], width)
    tall = np.tensordot(rows, pixels.astype(np.float32), axes=(1, 0))  # (height, W[, 3])
    small = np.swapaxes(np.tensordot(columns, tall, axes=(1, 1)), 0, 1)
    return np.asarray(np.rint(small).clip(0, 255), dtype=np.uint8)


def upper_part(pixels: np.ndarray, size: int) -> np.ndarray | None:
    """Resize a picture that is the upper part of a square one, (rows, size[, 3]) uint8; None for any other.

    That is a picture of the width ``size`` with fewer rows, or one that is twice as wide as high.
    """
    height, width = pixels.shape[:2]
    if width == size and height < size:
        return pixels
    is_half = abs(2 * height - width) <= width / 50 and size > 1
    return resize(pixels, size // 2, size) if is_half else None


@lru_cache(maxsize=16)
def _area_weights(side: int, size: int) -> np.ndarray:
    """Return the overlap of each new pixel with each old one: (size, side), rows sum to 1."""
    edges = np.arange(size + 1) * (side / size)
    begin, end = edges[:-1, None], edges[1:, None]
    old = np.arange(side)
    inside = np.clip(np.minimum(end, old + 1) - np.maximum(begin, old), 0, None)
    return np.asarray(inside / inside.sum(1, keepdims=True), dtype=np.float32)


def to_grayscale(pixels: np.ndarray) -> np.ndarray:
    """Convert to brightness, (H, W) uint8, with the weights of ITU-R BT.601."""
    if pixels.ndim == 2:
        return pixels
    return np.asarray(np.rint(pixels @ np.array([0.299, 0.587, 0.114])), dtype=np.uint8)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Convert to (H, W, 3) uint8."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
