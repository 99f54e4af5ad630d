"""Pixels to ids and back, as Image GPT has it (Chen et al. 2020): a row of one token a pixel, in raster order.

A token is a level of grey or the nearest colour of a palette. Before each row stands a token that says its class, or
the start token where none is known; they come after the pixels' in the vocabulary: levels, start, classes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int, UInt8

from firstlight.errors import UsageError, nearest

_PIXELS = 1 << 16  # compared with the palette at once


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the tokens of images mean.

    Attributes:
        size: pixels a side.
        levels: of grey; 0 where there is a palette.
        palette: colours, or none.
        classes: names in the order of their tokens, or none.
    """

    size: int
    levels: int
    palette: tuple[tuple[int, int, int], ...] = ()
    classes: tuple[str, ...] = ()

    FILE: ClassVar = "pixels.json"
    UNIT: ClassVar = "dim"

    @property
    def n_values(self) -> int:
        """Tokens of pixels: ids below this."""
        return len(self.palette) or self.levels

    @property
    def start_id(self) -> int:
        """The token before an image whose class is not told."""
        return self.n_values

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.n_values + 1 + len(self.classes)

    @property
    def eot_id(self) -> int:
        """Nothing ends an image: all are equally long."""
        return -1

    @property
    def sequence_length(self) -> int:
        """Tokens of every document: one for the class, one a pixel."""
        return 1 + self.size**2

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the ids."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def byte_lengths(self) -> np.ndarray:
        """No id stands for bytes of text: zeros (V,)."""
        return np.zeros(self.vocab_size, dtype=np.int32)

    def first(self, label: str | None) -> int:
        """Return the token before an image of a class, or of none.

        Raises:
            UsageError: there is no such class.
        """
        if label is None or not self.classes:
            return self.start_id
        try:
            return self.start_id + 1 + self.classes.index(label)
        except ValueError as error:
            near = nearest(label, self.classes)
            raise UsageError(
                "is no class of these images",
                where=label,
                expected=f"one of {', '.join(self.classes[:20])}",
                fix=near and f"Did you mean {near!r}?",
            ) from error

    def label(self, first: int) -> str:
        """Return the class that a first token says, or nothing."""
        return self.classes[first - self.start_id - 1] if first > self.start_id else ""

    def encode(self, image: UInt8[np.ndarray, "..."]) -> Int[np.ndarray, " P"]:
        """Return the tokens of an image's pixels, row by row: (size, size), or (size, size, 3) with a palette."""
        if not self.palette:
            # The nearest level, in whole numbers, so that an image that was decoded stays as it is.
            return ((image.astype(np.int32) * (self.levels - 1) * 2 + 255) // 510).reshape(-1)
        return nearest_colors(image.reshape(-1, 3), self.palette)

    def decode(self, tokens: Int[np.ndarray, "N P"]) -> UInt8[np.ndarray, "N S S 3"]:
        """Return images of rows of pixels, in colour, or grey in three equal numbers."""
        if self.palette:
            colors = np.array(self.palette, dtype=np.uint8)
        else:
            grey = np.rint(np.arange(self.levels) * (255 / (self.levels - 1))).astype(np.uint8)
            colors = np.repeat(grey[:, None], 3, axis=1)
        images: np.ndarray = colors[tokens].reshape(len(tokens), self.size, self.size, 3)
        return images

    def to_json(self) -> dict[str, Any]:
        """Return the table of pixels.json."""
        values = {"palette": [list(color) for color in self.palette]} if self.palette else {"levels": self.levels}
        channels = 3 if self.palette else 1
        classes = list(self.classes)
        return {"format": 1, "size": self.size, "order": "raster", "channels": channels, **values, "classes": classes}

    @classmethod
    def of_json(cls, table: Mapping[str, Any]) -> "Pixels":
        """Return what a table says.

        Raises:
            ValueError, KeyError, TypeError: it says nothing of pixels.
        """
        size, levels = table["size"], table.get("levels", 0)
        palette = tuple((int(r), int(g), int(b)) for r, g, b in table.get("palette", ()))
        classes = table["classes"]
        if type(size) is not int or not 0 < size <= 1024 or table.get("order") != "raster":
            raise ValueError(f"size {size!r}, order {table.get('order')!r}")
        if not all(0 <= value <= 255 for color in palette for value in color) or len(palette) == 1:
            raise ValueError("a palette that is none")
        if not palette and (type(levels) is not int or not 2 <= levels <= 256):
            raise ValueError(f"levels {levels!r}")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("classes that are no names")
        return cls(size, 0 if palette else levels, palette, tuple(classes))


def nearest_colors(pixels: UInt8[np.ndarray, "P 3"], palette: Sequence[Sequence[int]]) -> Int[np.ndarray, " P"]:
    """Return the nearest colour of each pixel by squared distance; of equally near ones the first."""
    colors, squares = _columns(tuple(map(tuple, palette)))
    found = np.empty(len(pixels), dtype=np.int32)
    for first in range(0, len(pixels), _PIXELS):
        part = pixels[first : first + _PIXELS].astype(np.float32)
        # All whole numbers below 2^24, so exact, in whatever order a machine adds them up.
        found[first : first + _PIXELS] = np.argmin(squares - 2 * part @ colors, axis=1)
    return found


@lru_cache(maxsize=4)
def _columns(palette: tuple[tuple[int, ...], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours as columns (3, n), and the square of each one's length (n,)."""
    colors = np.array(palette, dtype=np.float32).T
    return colors, (colors**2).sum(0)


def find_palette(pixels: UInt8[np.ndarray, "P 3"], n: int, seed: int) -> tuple[tuple[int, int, int], ...]:
    """Return ``n`` colours for these pixels by k-means, or all of theirs where they have no more.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    colors = np.unique(pixels, axis=0)
    if len(colors) > n:
        from firstlight.tokenizer.palette import centres

        colors = centres(pixels, n, seed)
    if len(colors) == 1:  # a corpus of one colour still needs two
        colors = np.concatenate([colors, 255 - colors])
    return tuple((int(r), int(g), int(b)) for r, g, b in colors)
