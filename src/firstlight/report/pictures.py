"""Grids of small images as PNG."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from firstlight.errors import MissingExtra

_SIDE = 64  # about the pixels that a small image is drawn with
_GAP = 2
_PAPER = 255
UNKNOWN = (96, 108, 160)  # of what was not given


def grid(rows: Sequence[Sequence[UInt8[np.ndarray, "S S 3"]]]) -> UInt8[np.ndarray, "H W 3"]:
    """Put rows of images of one size into one, enlarged by a whole number, with white between them."""
    size = len(rows[0][0])
    times = max(1, round(_SIDE / size))
    step = size * times + _GAP
    n = max(map(len, rows))
    paper = np.full((len(rows) * step + _GAP, n * step + _GAP, 3), _PAPER, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            large = image.repeat(times, axis=0).repeat(times, axis=1)
            top, left = _GAP + i * step, _GAP + j * step
            paper[top : top + size * times, left : left + size * times] = large
    return paper


def png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Return an image as the bytes of a PNG file.

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
