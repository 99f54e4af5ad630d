"""Where the parameters of a model are: read from the header of its safetensors files, by the names of transformers."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

# The first pattern that a tensor's name has decides.
_PARTS = (
    ("norms", re.compile(r"(^|[._])ln_|norm")),
    ("attention", re.compile(r"att")),
    ("MLP", re.compile(r"mlp|feed_forward")),
    ("position embeddings", re.compile(r"wpe|position")),
    ("token embeddings", re.compile(r"wte|embed")),
    ("output head", re.compile(r"(^|\.)(lm_head|embed_out)\.")),
    ("task heads", re.compile(r"(^|\.)(score|classifier|heads?)\.")),
)
_OTHER = "other"
_ORDER = ("token embeddings", "position embeddings", "attention", "MLP", "norms", "output head", "task heads", _OTHER)
_MAX_HEADER = 100_000_000  # bytes


@dataclass(frozen=True, slots=True)
class Part:
    """The parameters of one kind of layer: their number, and fraction of all."""

    name: str
    n: int
    fraction: float


def read_weights(path: Path) -> dict[str, int]:
    """Return the number of elements of each tensor in a safetensors file; empty if it cannot be read.

    The header is JSON: eight bytes of length, then the table.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < _MAX_HEADER:
                return {}
            table = json.loads(file.read(length))
        sizes = {name: math.prod(map(int, entry["shape"])) for name, entry in table.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
    return sizes if all(size >= 0 for size in sizes.values()) else {}


def group(sizes: dict[str, int]) -> list[Part]:
    """Add up the tensors of each kind of layer, in the order in which a text passes through them."""
    found: dict[str, int] = {}
    for name, size in sizes.items():
        part = next((part for part, pattern in _PARTS if pattern.search(name)), _OTHER)
        found[part] = found.get(part, 0) + size
    total = sum(found.values())
    return [Part(name, found[name], found[name] / total) for name in _ORDER if found.get(name)]
