"""The unknown part of the text of a store while it is written: how many tokens, and the bytes that each stands for.

The bytes of each unknown token in train are in a file, ``unknown.bin`` (uint32), since the end of a source may move to
valid when the source ends; the store does not keep it, only the sums.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from firstlight.types import EncodedTexts, UnknownText

_FILE = "unknown.bin"
_CHUNK = 1 << 20
_SIDES = ("train", "valid")


class UnknownLog:
    """Counts what is unknown in each split.

    Args:
        folder: of the file; it exists.
        unknown_id: of the tokenizer; None where no token is unknown.
        resume: the file of an interrupted preparation is continued.
    """

    def __init__(self, folder: Path, unknown_id: int | None, *, resume: bool) -> None:
        self.unknown_id = unknown_id
        self._file: BinaryIO | None = None
        if unknown_id is not None:
            self._file = (folder / _FILE).open("r+b" if resume else "w+b")
        self._counts = {side: UnknownText() for side in _SIDES}
        self._before = dict(self._counts)

    def of(self, side: str) -> UnknownText:
        """Return what is unknown in a split."""
        return self._counts[side]

    def of_source(self, side: str) -> UnknownText:
        """Return what is unknown in the part of a split that is from the current source."""
        return _subtract(self._counts[side], self._before[side])

    def begin_source(self) -> None:
        """Start a source."""
        self._before = dict(self._counts)

    def add(self, encoded: EncodedTexts, in_valid: np.ndarray) -> None:
        """Count what is unknown in texts, each in train or in valid."""
        if not len(encoded.unk_bytes) and not encoded.dropped.any():
            return
        unk_in_valid = np.zeros(0, dtype=bool)
        if self.unknown_id is not None:
            unk_in_valid = np.repeat(in_valid, encoded.counts)[encoded.ids == self.unknown_id]
        for side, texts, tokens in (("valid", in_valid, unk_in_valid), ("train", ~in_valid, ~unk_in_valid)):
            lengths = encoded.unk_bytes[tokens]
            n_dropped, dropped_bytes = encoded.dropped[texts].sum(0).tolist()
            self._counts[side] += UnknownText(len(lengths), int(lengths.sum()), n_dropped, dropped_bytes)
            if side == "train" and self._file is not None:
                self._file.write(lengths.astype("<u4").tobytes())

    def move_tail(self, n: int, fraction: float) -> None:
        """Move the last ``n`` unknown tokens of train to valid, and that fraction of the source's dropped characters.

        The file keeps them until others take their place: a state saved before needs them.
        """
        n_bytes, first = 0, self._counts["train"].tokens - n
        if self._file is not None:
            self._file.flush()
            self._file.seek(first * 4)
            for start in range(0, n, _CHUNK):
                data = self._file.read(min(n - start, _CHUNK) * 4)
                n_bytes += int(np.frombuffer(data, dtype="<u4").sum(dtype=np.int64))
            self._file.seek(first * 4)
        source = self.of_source("train")
        moved = UnknownText(n, n_bytes, round(source.n_dropped * fraction), round(source.dropped_bytes * fraction))
        self._counts = {
            "train": _subtract(self._counts["train"], moved),
            "valid": self._counts["valid"] + moved,
        }

    def sizes(self) -> dict[str, int]:
        """Return the bytes of the file that count, by its name."""
        return {} if self._file is None else {_FILE: self._counts["train"].tokens * 4}

    def sync(self) -> None:
        """Bring the file to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def to_json(self) -> dict[str, Any]:
        """Return the state of an interrupted preparation."""
        tables = {"counts": self._counts, "before": self._before}
        return {name: {side: _to_list(table[side]) for side in _SIDES} for name, table in tables.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._counts, self._before = (
            {side: _from_list(state[name][side]) for side in _SIDES} for name in ("counts", "before")
        )
        if self._file is not None:
            self._file.seek(self._counts["train"].tokens * 4)


def _to_list(unknown: UnknownText) -> list[int]:
    return [unknown.tokens, unknown.n_bytes or 0, unknown.n_dropped, unknown.dropped_bytes]


def _subtract(whole: UnknownText, part: UnknownText) -> UnknownText:
    return _from_list([a - b for a, b in zip(_to_list(whole), _to_list(part), strict=True)])


def _from_list(numbers: list[int]) -> UnknownText:
    tokens, n_bytes, n_dropped, dropped_bytes = numbers
    return UnknownText(tokens, n_bytes, n_dropped, dropped_bytes)
