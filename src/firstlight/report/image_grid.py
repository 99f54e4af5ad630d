"""Grids of small images as PNG."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from firstlight.errors import MissingExtra

_SIDE = 64  # approximate size of an enlarged image, in pixels
_GAP = 2
_BACKGROUND = 255
MASKED_COLOR = (96, 108, 160)  # of the part that is to be completed


def image_grid(rows: Sequence[Sequence[UInt8[np.ndarray, "S S 3"]]]) -> UInt8[np.ndarray, "H W 3"]:
    """Combine rows of images of equal size into one image, enlarged by an integer factor, with white gaps."""
    size = len(rows[0][0])
    scale = max(1, round(_SIDE / size))
    step = size * scale + _GAP
    n = max(map(len, rows))
    canvas = np.full((len(rows) * step + _GAP, n * step + _GAP, 3), _BACKGROUND, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            top, left = _GAP + i * step, _GAP + j * step
            canvas[top : top + size * scale, left : left + size * scale] = large
    return canvas


def encode_png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Encode an image as PNG.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("writing PNG", "images") from error
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()
