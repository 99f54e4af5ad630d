"""Codecs: the meaning of token ids that are not text, saved with a model as ``ids.json`` or ``pixels.json``."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from firstlight.errors import TokenizerError
from firstlight.files import read_json, write_atomic
from firstlight.tokenizer.pixels import PixelCodec

FORMAT = 1


@dataclass(frozen=True, slots=True)
class IdCodec:
    """Ids of pre-tokenized data, and one more that ends a document.

    Attributes:
        n_ids: the number of ids in the data; the end-of-document id follows them.
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
        """None: documents have any length."""
        return

    @property
    def hash(self) -> str:
        """SHA-256 of everything that determines the ids."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def byte_lengths(self) -> np.ndarray:
        """Zeros (V,): ids have no bytes of text."""
        return np.zeros(self.vocab_size, dtype=np.int32)

    def to_json(self) -> dict[str, Any]:
        """Build the table of ids.json."""
        return {"format": FORMAT, "vocab_size": self.n_ids}


Codec = IdCodec | PixelCodec


def save_codec(codec: Codec, folder: Path) -> None:
    """Write ``ids.json`` or ``pixels.json``."""
    write_atomic(folder / codec.FILE, json.dumps(codec.to_json()) + "\n")


def load_codec(folder: Path) -> Codec | None:
    """Load the codec of the model or store in ``folder``; None if it has none.

    Raises:
        TokenizerError: the file is damaged.
    """
    for kind in (PixelCodec, IdCodec):
        path = folder / kind.FILE
        if path.is_file():
            table = read_json(path, TokenizerError)
            try:
                if not isinstance(table, dict) or table.get("format") != FORMAT:
                    raise ValueError(f"not an object of format {FORMAT}")
                return PixelCodec.from_json(table) if kind is PixelCodec else _ids(table)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise TokenizerError(f"is not a valid codec file: {error!r}", where=path) from error
    return None


def _ids(table: Mapping[str, Any]) -> IdCodec:
    n = table["vocab_size"]
    if type(n) is not int or not 0 < n < 2**31 - 1:
        raise ValueError(f"vocab_size {n!r}")
    return IdCodec(n)
