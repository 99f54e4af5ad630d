"""Origins of documents, stored compactly: a table of prefixes and one number per document."""

import re
from array import array
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from firstlight.files import write_atomic

_NUMBERED = re.compile(r"(.*?)([0-9]*)\Z", re.DOTALL)
_SIDES = ("train", "valid")


class NameTableWriter:
    """Collects names such as ``corpus.jsonl:17`` as (prefix, 17), and saves them."""

    def __init__(self) -> None:
        self._prefixes: dict[str, int] = {}
        self._columns = {side: (array("i"), array("q")) for side in _SIDES}

    def add(self, side: str, name: str) -> None:
        """Add the name of the next document of ``train`` or ``valid``."""
        match = _NUMBERED.match(name)
        assert match is not None
        prefix, number = match.groups()
        if len(number) > 15 or (len(number) > 1 and number[0] == "0"):
            prefix, number = name, ""
        prefixes, numbers = self._columns[side]
        prefixes.append(self._prefixes.setdefault(prefix, len(self._prefixes)))
        numbers.append(int(number) if number else -1)

    def move_tail(self, kept: int, moved: int) -> None:
        """Keep the first ``kept`` documents in train, and append the last ``moved`` to valid; one may be in both."""
        for train, valid in zip(self._columns["train"], self._columns["valid"], strict=True):
            valid.extend(train[len(train) - moved :])
            del train[kept:]

    def get(self, side: str, index: int) -> str:
        """Return the name of a document."""
        prefix, number = (int(column[index]) for column in self._columns[side])
        return next(islice(self._prefixes, prefix, None)) + (str(number) if number >= 0 else "")

    def __len__(self) -> int:
        """Number of prefixes."""
        return len(self._prefixes)

    def segment(self, documents: Mapping[str, slice], first_prefix: int) -> dict[str, np.ndarray]:
        """Return the names of some documents, and the prefixes from ``first_prefix`` on, for ``extend``."""
        tensors = _encode_prefixes(islice(self._prefixes, first_prefix, None))
        for side, chosen in documents.items():
            prefixes, numbers = self._columns[side]
            tensors[f"{side}.prefix"] = np.array(prefixes[chosen], dtype=np.int32)
            tensors[f"{side}.number"] = np.array(numbers[chosen], dtype=np.int64)
        return tensors

    def extend(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Append a segment."""
        first = 0
        for end in tensors["prefix_ends"].tolist():
            text = bytes(tensors["prefixes"][first:end]).decode("utf-8", "surrogatepass")
            self._prefixes.setdefault(text, len(self._prefixes))
            first = end
        for side, (prefixes, numbers) in self._columns.items():
            prefixes.extend(tensors[f"{side}.prefix"].tolist())
            numbers.extend(tensors[f"{side}.number"].tolist())

    def save(self, path: Path) -> None:
        """Save as safetensors; the prefixes are concatenated UTF-8 bytes."""
        write_atomic(path, save(self.segment(dict.fromkeys(_SIDES, slice(None)), 0)))


def _encode_prefixes(prefixes: Iterable[str]) -> dict[str, np.ndarray]:
    encoded = [prefix.encode("utf-8", "surrogatepass") for prefix in prefixes]
    return {
        "prefixes": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "prefix_ends": np.cumsum([len(e) for e in encoded], dtype=np.int64),
    }


class NameTable:
    """The names of the documents of one split."""

    def __init__(self, path: Path, side: str) -> None:
        tensors = load_file(path)
        self._text, self._ends = tensors["prefixes"], tensors["prefix_ends"]
        self._prefixes, self._numbers = tensors[f"{side}.prefix"], tensors[f"{side}.number"]

    def __len__(self) -> int:
        return len(self._prefixes)

    def __getitem__(self, document: int) -> str:
        prefix, number = int(self._prefixes[document]), int(self._numbers[document])
        first = int(self._ends[prefix - 1]) if prefix else 0
        text = bytes(self._text[first : int(self._ends[prefix])])
        return text.decode("utf-8", "surrogatepass") + (str(number) if number >= 0 else "")
