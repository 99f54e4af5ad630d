"""GGUF, llama.cpp's file format: key-value pairs, a table of tensors, their data.

Source: ggml/docs/gguf.md. Versions 2 and 3, little endian. What the file says of its sizes is held to its real size
before anything is allocated. The ``gguf`` package dequantises; the header is read here, since the package believes it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import CheckpointError
from firstlight.files import BoundedReader

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_DTYPES = {kind: np.dtype(f"<{letter}") for kind, letter in _NUMBERS.items()} | {_BOOL: np.dtype("?")}
_MOST_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the table: its shape as numpy has it (the last axis lies together), type, and place in the file."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class GGUF:
    """A GGUF file.

    Attributes:
        values: the key-value pairs; arrays of numbers are numpy's, arrays of strings lists.
        tensors: the table.

    Raises:
        CheckpointError: it is none, is cut, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = file = BoundedReader(path, CheckpointError)
        if file.read(4) != MAGIC:
            raise CheckpointError("is no GGUF file", where=path)
        (version,) = file.unpack("I")
        if version not in _VERSIONS:
            raise CheckpointError("is GGUF of another version", where=path, found=version, expected="2 or 3")
        n_tensors, n_values = file.unpack("QQ")
        # A pair takes 13 bytes at least, an entry of the table 24.
        file.require(13 * n_values + 24 * n_tensors)
        self.values: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._text()
            self.values[key] = self._value(*file.unpack("I"))
        self.tensors: dict[str, Entry] = {}
        for _ in range(n_tensors):
            name = self._text()
            self.tensors[name] = self._entry(name)
        alignment = self.values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise CheckpointError("has an absurd alignment", where=path, found=alignment)
        self._data = -(-file.offset // alignment) * alignment

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in fp32.

        Raises:
            CheckpointError: the table lacks it, the file ends before it does, or its type is unknown.
        """
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        entry = self.tensors.get(name)
        if entry is None:
            raise CheckpointError("a weight is missing", where=self.path, expected=name)
        try:
            kind = GGMLQuantizationType(entry.kind)
            block, size = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise CheckpointError("has weights of an unknown type", where=self.path, found=entry.kind) from error
        if entry.shape[-1] % block:
            raise CheckpointError(
                f"has rows that are no whole blocks of {kind.name}", where=f"{self.path}: {name}", found=entry.shape
            )
        rows = (*entry.shape[:-1], entry.shape[-1] // block * size)
        self._file.offset = self._data + entry.offset
        stored = self._file.read_array(np.dtype("u1"), rows)
        try:
            with np.errstate(all="ignore"):  # of scales that are damaged; what is not finite is refused
                values = dequantize(stored, kind)
        except NotImplementedError as error:
            raise CheckpointError(
                "has weights in a type that is not read",
                where=f"{self.path}: {name}",
                found=kind.name,
                fix="Take a file in F16, Q8_0 or a K-quant.",
            ) from error
        return np.asarray(values, dtype=np.float32).reshape(entry.shape)

    def _text(self) -> str:
        (length,) = self._file.unpack("Q")
        return self._file.read_text(length)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _BOOL:
            return self._file.read(1) != b"\0"
        if kind in _NUMBERS:
            return self._file.unpack(_NUMBERS[kind])[0]
        if kind != _ARRAY:
            raise CheckpointError("has a value of an unknown type", where=self.path, found=kind)
        kind, count = self._file.unpack("IQ")
        if kind == _STRING:
            self._file.require(8 * count)
            return [self._text() for _ in range(count)]
        if kind not in _DTYPES:
            raise CheckpointError("has an array of an unknown type", where=self.path, found=kind)
        return self._file.read_array(_DTYPES[kind], (count,))

    def _entry(self, name: str) -> Entry:
        (n_dimensions,) = self._file.unpack("I")
        if not 1 <= n_dimensions <= _MOST_DIMENSIONS:
            raise CheckpointError("has a tensor of absurd shape", where=f"{self.path}: {name}", found=n_dimensions)
        sizes = self._file.unpack("Q" * n_dimensions)
        kind, offset = self._file.unpack("IQ")
        # No type takes less than a bit a number, so this is more than any file can hold.
        if 0 in sizes or math.prod(sizes) > 8 * self._file.size:
            raise CheckpointError("has a tensor of absurd shape", where=f"{self.path}: {name}", found=sizes)
        return Entry(tuple(reversed(sizes)), kind, offset)
