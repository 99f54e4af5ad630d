"""Encode text with a character-level tokenizer, by a table of code points."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from firstlight.tokenizer.tokenizer_json import byte_token
from firstlight.tokenizer.unknown import utf8_lengths


class CharacterEncoder:
    """Encodes each character as its token; others as the unknown token, or as the tokens of their UTF-8 bytes.

    Args:
        table: the tokenizer.json, of kind char.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        vocab, special = table["model"]["vocab"], {t["content"] for t in table["added_tokens"]}
        self._byte_ids: np.ndarray | None = None
        if table["model"].get("byte_fallback"):
            self._byte_ids = np.array([vocab[byte_token(b)] for b in range(256)], dtype=np.int32)
        # -1: spelled in bytes.
        other = vocab[table["model"]["unk_token"]] if self._byte_ids is None else -1
        self._ids = np.full(0x110000, other, dtype=np.int32)
        for token, i in vocab.items():
            if token not in special and len(token) == 1:
                self._ids[ord(token)] = i

    def __call__(self, text: str) -> np.ndarray:
        """Return the ids of a text (int32).

        Raises:
            UnicodeEncodeError: it has a lone surrogate.
        """
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids: np.ndarray = self._ids[points]
        if self._byte_ids is None or not len(spelled := np.flatnonzero(ids < 0)):
            return ids
        # A place for each byte after the first of a character that is spelled, then all of its bytes.
        ids = np.insert(ids, np.repeat(spelled + 1, utf8_lengths(points[spelled]) - 1), -1)
        data = points[spelled].tobytes().decode("utf-32-le").encode("utf-8")
        ids[ids < 0] = self._byte_ids[np.frombuffer(data, dtype=np.uint8)]
        return ids
