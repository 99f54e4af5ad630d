"""What ids mean that are no text: their number (``ids.json``), or pixels (``pixels.json``), beside a model as JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from firstlight.errors import TokenizerError
from firstlight.files import write_atomic
from firstlight.tokenizer.pixels import Pixels

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Ids:
    """Ids that were made elsewhere, and one more that ends a document.

    Attributes:
        n_ids: how many were made elsewhere; the one that ends a document comes after them.
    """

    n_ids: int

    FILE: ClassVar = "ids.json"
    UNIT: ClassVar = "token"

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.n_ids + 1

    @property
    def eot_id(self) -> int:
        """The id that ends a document."""
        return self.n_ids

    @property
    def sequence_length(self) -> None:
        """Documents have any length."""
        return

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the ids."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def byte_lengths(self) -> np.ndarray:
        """No id stands for bytes of text: zeros (V,)."""
        return np.zeros(self.vocab_size, dtype=np.int32)

    def to_json(self) -> dict[str, Any]:
        """Return the table of ids.json."""
        return {"format": FORMAT, "vocab_size": self.n_ids}


Codec = Ids | Pixels


def save_codec(codec: Codec, folder: Path) -> None:
    """Write ``ids.json`` or ``pixels.json``."""
    write_atomic(folder / codec.FILE, json.dumps(codec.to_json()) + "\n")


def read_codec(folder: Path) -> Codec | None:
    """Return what the ids of a model or store mean that lies in ``folder``; None where no file says it.

    Raises:
        TokenizerError: the file is damaged.
    """
    for kind in (Pixels, Ids):
        path = folder / kind.FILE
        if path.is_file():
            try:
                table = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(table, dict) or table.get("format") != FORMAT:
                    raise ValueError(f"no table of format {FORMAT}")
                return Pixels.of_json(table) if kind is Pixels else _ids(table)
            except (ValueError, KeyError, TypeError, OSError, RecursionError, OverflowError) as error:
                raise TokenizerError(f"says nothing of ids: {error!r}", where=path) from error
    return None


def _ids(table: Mapping[str, Any]) -> Ids:
    n = table["vocab_size"]
    if type(n) is not int or not 0 < n < 2**31 - 1:
        raise ValueError(f"vocab_size {n!r}")
    return Ids(n)
