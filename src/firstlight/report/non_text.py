"""Runs on images and ids: the unit of bits, the meaning of ids, and image grids."""

import base64
from dataclasses import dataclass

from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact
from firstlight.report.units import to_float

UNITS = {"byte": "byte", "token": "token", "dim": "dimension"}
_MAX_BYTES = 4 << 20
_IMAGE_GRIDS = (
    ("completions.png", "Completions", "the given part of an image, four completions, and the original"),
    ("samples.png", "Samples", "generated images, one class per row"),
)


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """An image file of the run, as a data URI."""

    heading: str
    text: str
    file: str
    uri: str


def unit(files: RunFiles) -> str:
    """Return what bits are per: byte, token or dim."""
    return "byte" if not files.codec else "dim" if "size" in files.codec else "token"


def key(files: RunFiles) -> str:
    """Return the key of bits in the files, such as bits_per_byte."""
    return f"bits_per_{unit(files)}"


def facts(files: RunFiles) -> list[Fact]:
    """Describe what the ids mean."""
    kind = unit(files)
    if kind == "byte":
        return []
    if kind == "token":
        n = to_float(find(files.codec, "vocab_size"))
        return [Fact("ids", "pre-tokenized" if n is None else f"{n:,.0f}", "plus one that ends a sequence")]
    size, levels = (to_float(find(files.codec, name)) for name in ("size", "levels"))
    palette, classes = (find(files.codec, name) for name in ("palette", "classes"))
    colors = f"{len(palette):,} colours" if isinstance(palette, list) else f"{levels or 0:,.0f} grey levels"
    shape = f"{size or 0:,.0f} × {size or 0:,.0f} pixels, in raster order"
    found = [Fact("images", shape), Fact("pixel values", colors)]
    return [*found, Fact("classes", f"{len(classes):,}")] if isinstance(classes, list) and classes else found


def image_grids(files: RunFiles) -> list[ImageGrid]:
    """Return the image grids that the run generated at its end."""
    found = []
    for name, heading, text in _IMAGE_GRIDS if unit(files) == "dim" else ():
        try:
            with (files.run / name).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError:
            continue
        if len(data) > _MAX_BYTES or not data.startswith(b"\x89PNG\r\n\x1a\n"):
            files.problems.append(f"{name} is not a PNG file of at most {_MAX_BYTES >> 20} MB")
            continue
        uri = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
        found.append(ImageGrid(heading, text, name, uri))
    return found
