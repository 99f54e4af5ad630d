"""Images to token ids and back, as in Image GPT (Chen et al. 2020): one token per pixel, in raster order.

A token is a grey level or the nearest colour of a palette. Each image starts with the token of its class, or with the
start token if it has none. The vocabulary is: pixel values, start token, classes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int, UInt8

from firstlight import progress
from firstlight.errors import UsageError, nearest

_CHUNK_PIXELS = 1 << 16  # compared with the palette at once
_KMEANS_BATCH = 8192


@dataclass(frozen=True, slots=True)
class PixelCodec:
    """The meaning of the tokens of images.

    Attributes:
        size: pixels per side.
        levels: number of grey levels; 0 with a palette.
        palette: RGB colours, or empty.
        classes: names in the order of their tokens, or empty.
    """

    size: int
    levels: int
    palette: tuple[tuple[int, int, int], ...] = ()
    classes: tuple[str, ...] = ()

    FILE: ClassVar = "pixels.json"
    UNIT: ClassVar = "dim"

    @property
    def n_values(self) -> int:
        """Number of pixel values; their ids come first."""
        return len(self.palette) or self.levels

    @property
    def start_id(self) -> int:
        """The first token of an image without a class."""
        return self.n_values

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.n_values + 1 + len(self.classes)

    @property
    def eot_id(self) -> int:
        """-1: images have a fixed length, so nothing ends them."""
        return -1

    @property
    def sequence_length(self) -> int:
        """Number of tokens of every image: one for the class, one per pixel."""
        return 1 + self.size**2

    @property
    def hash(self) -> str:
        """SHA-256 of everything that determines the ids."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def byte_lengths(self) -> np.ndarray:
        """Zeros (V,): ids have no bytes of text."""
        return np.zeros(self.vocab_size, dtype=np.int32)

    def class_id(self, label: str | None) -> int:
        """Look up the first token of an image of a class, or of no class.

        Raises:
            UsageError: an unknown class.
        """
        if label is None or not self.classes:
            return self.start_id
        try:
            return self.start_id + 1 + self.classes.index(label)
        except ValueError as error:
            near = nearest(label, self.classes)
            raise UsageError(
                "is not a class of these images",
                where=label,
                expected=f"one of {', '.join(self.classes[:20])}",
                fix=near and f"Did you mean {near!r}?",
            ) from error

    def class_name(self, first_id: int) -> str:
        """Look up the class of an image's first token; empty for the start token."""
        return self.classes[first_id - self.start_id - 1] if first_id > self.start_id else ""

    def encode(self, image: UInt8[np.ndarray, "..."]) -> Int[np.ndarray, " P"]:
        """Encode the pixels of an image: (size, size), or (size, size, 3) with a palette."""
        if not self.palette:
            # The nearest level, in integers, so that encoding a decoded image gives the same tokens.
            return ((image.astype(np.int32) * (self.levels - 1) * 2 + 255) // 510).reshape(-1)
        return nearest_colors(image.reshape(-1, 3), self.palette)

    def decode(self, tokens: Int[np.ndarray, "N P"]) -> UInt8[np.ndarray, "N S S 3"]:
        """Decode tokens to RGB images; grey levels have three equal channels."""
        if self.palette:
            colors = np.array(self.palette, dtype=np.uint8)
        else:
            grey = np.rint(np.arange(self.levels) * (255 / (self.levels - 1))).astype(np.uint8)
            colors = np.repeat(grey[:, None], 3, axis=1)
        images: np.ndarray = colors[tokens].reshape(len(tokens), self.size, self.size, 3)
        return images

    def to_json(self) -> dict[str, Any]:
        """Build the table of pixels.json."""
        values = {"palette": [list(color) for color in self.palette]} if self.palette else {"levels": self.levels}
        channels = 3 if self.palette else 1
        classes = list(self.classes)
        return {"format": 1, "size": self.size, "order": "raster", "channels": channels, **values, "classes": classes}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "PixelCodec":
        """Parse the table of pixels.json.

        Raises:
            ValueError, KeyError, TypeError: it is not a valid table.
        """
        size, levels = table["size"], table.get("levels", 0)
        palette = tuple((int(r), int(g), int(b)) for r, g, b in table.get("palette", ()))
        classes = table["classes"]
        if type(size) is not int or not 0 < size <= 1024 or table.get("order") != "raster":
            raise ValueError(f"size {size!r}, order {table.get('order')!r}")
        if not all(0 <= value <= 255 for color in palette for value in color) or len(palette) == 1:
            raise ValueError("invalid palette")
        if not palette and (type(levels) is not int or not 2 <= levels <= 256):
            raise ValueError(f"levels {levels!r}")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("classes must be a list of names")
        return cls(size, 0 if palette else levels, palette, tuple(classes))


def nearest_colors(pixels: UInt8[np.ndarray, "P 3"], palette: Sequence[Sequence[int]]) -> Int[np.ndarray, " P"]:
    """Find the index of the nearest colour of each pixel, by squared distance; ties go to the first."""
    colors, squares = _palette_columns(tuple(map(tuple, palette)))
    indices = np.empty(len(pixels), dtype=np.int32)
    for start in range(0, len(pixels), _CHUNK_PIXELS):
        part = pixels[start : start + _CHUNK_PIXELS].astype(np.float32)
        # All values are integers below 2^24, so the result is exact whatever the order of summation.
        indices[start : start + _CHUNK_PIXELS] = np.argmin(squares - 2 * part @ colors, axis=1)
    return indices


@lru_cache(maxsize=4)
def _palette_columns(palette: tuple[tuple[int, ...], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Convert a palette to columns (3, n), and the squared norm of each colour (n,)."""
    colors = np.array(palette, dtype=np.float32).T
    return colors, (colors**2).sum(0)


def fit_palette(pixels: UInt8[np.ndarray, "P 3"], n: int, seed: int) -> tuple[tuple[int, int, int], ...]:
    """Fit a palette of ``n`` colours to pixels by k-means; all of their colours if there are at most ``n``."""
    colors = np.unique(pixels, axis=0)
    if len(colors) > n:
        colors = _kmeans_colors(pixels, n, seed)
    if len(colors) == 1:  # a palette has at least two colours
        colors = np.concatenate([colors, 255 - colors])
    return tuple((int(r), int(g), int(b)) for r, g, b in colors)


def _kmeans_colors(pixels: UInt8[np.ndarray, "P 3"], n: int, seed: int) -> UInt8[np.ndarray, "n 3"]:
    """Cluster pixels into ``n`` colours: the distinct rounded cluster centres, sorted."""
    from sklearn.cluster import MiniBatchKMeans

    progress.notice(f"fitting a palette of {n} colours by k-means on {len(pixels):,} pixels")
    kmeans = MiniBatchKMeans(n, random_state=seed, n_init=1, batch_size=_KMEANS_BATCH, max_iter=30)
    centers = kmeans.fit(pixels.astype(np.float32)).cluster_centers_
    return np.unique(np.rint(centers).clip(0, 255).astype(np.uint8), axis=0)
