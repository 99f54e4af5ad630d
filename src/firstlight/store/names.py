"""Where each document came from, kept small: a table of prefixes and one number a document."""

import re
from array import array
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

_NUMBERED = re.compile(r"(.*?)(\d*)\Z", re.DOTALL)


class NameTable:
    """Collects names such as ``corpus.jsonl:17`` as (prefix, 17)."""

    def __init__(self) -> None:
        self.prefixes: dict[str, int] = {}
        self._parts: dict[str, tuple[array[int], array[int]]] = {}

    def add(self, side: str, name: str) -> None:
        """Add the next document of ``train`` or ``valid``."""
        match = _NUMBERED.match(name)
        assert match is not None
        prefix, number = match.groups()
        if len(number) > 15 or (len(number) > 1 and number[0] == "0"):
            prefix, number = name, ""
        which, place = self._parts.setdefault(side, (array("i"), array("q")))
        which.append(self.prefixes.setdefault(prefix, len(self.prefixes)))
        place.append(int(number) if number else -1)

    def save(self, path: Path) -> None:
        """Write the numbers; prefixes go into the manifest."""
        tensors = {}
        for side, (which, place) in self._parts.items():
            tensors[f"{side}.prefix"] = np.array(which, dtype=np.int32)
            tensors[f"{side}.number"] = np.array(place, dtype=np.int64)
        save_file(tensors, path)


def read_names(path: Path, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return prefix numbers and places of the documents of one side."""
    tensors = load_file(path)
    empty = np.zeros(0, np.int64)
    return tensors.get(f"{side}.prefix", empty), tensors.get(f"{side}.number", empty)
