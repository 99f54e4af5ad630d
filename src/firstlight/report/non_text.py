"""Runs on sequences that are no text: what bits are counted for, what the ids mean, and pictures."""

import base64
from dataclasses import dataclass

from firstlight.report.run_files import RunFiles, find
from firstlight.report.text import Fact
from firstlight.report.units import number

UNITS = {"byte": "byte", "token": "token", "dim": "dimension"}
_LARGEST = 4 << 20
_PICTURES = (
    ("completions.png", "Images completed", "what was given of an image, four completions, and the image itself"),
    ("samples.png", "Images drawn", "images that it draws, a class each row"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the run, as a data URI."""

    heading: str
    text: str
    file: str
    uri: str


def unit(files: RunFiles) -> str:
    """Return what bits are counted for: byte, token or dim."""
    return "byte" if not files.codec else "dim" if "size" in files.codec else "token"


def key(files: RunFiles) -> str:
    """Return the name that files give to bits, such as bits_per_byte."""
    return f"bits_per_{unit(files)}"


def facts(files: RunFiles) -> list[Fact]:
    """Say what the ids mean."""
    kind = unit(files)
    if kind == "byte":
        return []
    if kind == "token":
        n = number(find(files.codec, "vocab_size"))
        return [Fact("ids", "made elsewhere" if n is None else f"{n:,.0f} of them", "and one that ends a sequence")]
    size, levels = (number(find(files.codec, name)) for name in ("size", "levels"))
    palette, classes = (find(files.codec, name) for name in ("palette", "classes"))
    colors = f"{len(palette):,} colours" if isinstance(palette, list) else f"{levels or 0:,.0f} levels of grey"
    found = [Fact("images", f"{size or 0:,.0f} × {size or 0:,.0f} pixels, row by row"), Fact("pixels", colors)]
    return [*found, Fact("classes", f"{len(classes):,}")] if isinstance(classes, list) and classes else found


def pictures(files: RunFiles) -> list[Picture]:
    """Return the pictures that the run drew at its end."""
    found = []
    for name, heading, text in _PICTURES if unit(files) == "dim" else ():
        try:
            with (files.run / name).open("rb") as file:
                data = file.read(_LARGEST + 1)
        except OSError:
            continue
        if len(data) > _LARGEST or not data.startswith(b"\x89PNG\r\n\x1a\n"):
            files.problems.append(f"{name} is no PNG of a small size")
            continue
        uri = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
        found.append(Picture(heading, text, name, uri))
    return found
