"""Parse a GGUF file: key-value metadata, a table of tensors, and their data.

Source: ggml/docs/gguf.md. Versions 2 and 3, little endian. Sizes in the file are checked against its actual size
before anything is allocated. The ``gguf`` package dequantizes; its own reader is not used, since it trusts the header.
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
_NUMBER_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_DTYPES = {kind: np.dtype(f"<{letter}") for kind, letter in _NUMBER_FORMATS.items()} | {_BOOL: np.dtype("?")}
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An entry in the table of tensors.

    Attributes:
        shape: in numpy's order, with the contiguous axis last.
        ggml_type: data type, a GGMLQuantizationType.
        offset: of the data, from the start of the data section.
    """

    shape: tuple[int, ...]
    ggml_type: int
    offset: int


class GGUFFile:
    """A GGUF file.

    Attributes:
        metadata: the key-value pairs; arrays of numbers are numpy arrays, arrays of strings are lists.
        tensors: the table of tensors, by name.

    Raises:
        CheckpointError: it is not a GGUF file, is truncated, or is inconsistent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = file = BoundedReader(path, CheckpointError)
        if file.read(4) != MAGIC:
            raise CheckpointError("not a GGUF file", where=path)
        (version,) = file.unpack("I")
        if version not in _VERSIONS:
            raise CheckpointError("unsupported GGUF version", where=path, found=version, expected="2 or 3")
        n_tensors, n_values = file.unpack("QQ")
        # A key-value pair takes at least 13 bytes, an entry of the table 24.
        file.require(13 * n_values + 24 * n_tensors)
        self.metadata: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._text()
            self.metadata[key] = self._value(*file.unpack("I"))
        self.tensors: dict[str, TensorInfo] = {}
        for _ in range(n_tensors):
            name = self._text()
            self.tensors[name] = self._tensor_info(name)
        # Every type takes at least one bit per weight; several tensors may not share their bytes.
        if sum(math.prod(info.shape) for info in self.tensors.values()) > 8 * file.size:
            raise CheckpointError("is truncated or damaged: its tensors are larger than the file", where=path)
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise CheckpointError("invalid alignment", where=path, found=alignment)
        self._data = -(-file.offset // alignment) * alignment

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor and dequantize it to fp32.

        Raises:
            CheckpointError: it is missing, truncated, or of an unknown type.
        """
        # An extra: the package is not needed to recognise a file.
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        info = self.tensors.get(name)
        if info is None:
            raise CheckpointError("missing weight", where=self.path, expected=name)
        try:
            ggml_type = GGMLQuantizationType(info.ggml_type)
            block, block_bytes = GGML_QUANT_SIZES[ggml_type]
        except (ValueError, KeyError) as error:
            raise CheckpointError("unknown type of weights", where=self.path, found=info.ggml_type) from error
        if info.shape[-1] % block:
            raise CheckpointError(
                f"the last dimension is not a multiple of the block size of {ggml_type.name}, {block}",
                where=f"{self.path}: {name}",
                found=info.shape,
            )
        rows = (*info.shape[:-1], info.shape[-1] // block * block_bytes)
        self._file.offset = self._data + info.offset
        stored = self._file.read_array(np.dtype("u1"), rows)
        try:
            with np.errstate(all="ignore"):  # damaged scales; values that are not finite are refused
                values = dequantize(stored, ggml_type)
        except NotImplementedError as error:
            raise CheckpointError(
                "unsupported type of weights",
                where=f"{self.path}: {name}",
                found=ggml_type.name,
                fix="Use a file in F16, Q8_0 or a K-quant.",
            ) from error
        return np.asarray(values, dtype=np.float32).reshape(info.shape)

    def _text(self) -> str:
        (length,) = self._file.unpack("Q")
        return self._file.read_text(length)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _BOOL:
            return self._file.read(1) != b"\0"
        if kind in _NUMBER_FORMATS:
            return self._file.unpack(_NUMBER_FORMATS[kind])[0]
        if kind != _ARRAY:
            raise CheckpointError("a value of an unknown type", where=self.path, found=kind)
        kind, count = self._file.unpack("IQ")
        if kind == _STRING:
            self._file.require(8 * count)
            return [self._text() for _ in range(count)]
        if kind not in _DTYPES:
            raise CheckpointError("an array of an unknown type", where=self.path, found=kind)
        return self._file.read_array(_DTYPES[kind], (count,))

    def _tensor_info(self, name: str) -> TensorInfo:
        (n_dimensions,) = self._file.unpack("I")
        if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
            raise CheckpointError("invalid number of dimensions", where=f"{self.path}: {name}", found=n_dimensions)
        sizes = self._file.unpack("Q" * n_dimensions)
        ggml_type, offset = self._file.unpack("IQ")
        if 0 in sizes or math.prod(sizes) > 8 * self._file.size:  # at least one bit per weight
            raise CheckpointError("invalid shape of a tensor", where=f"{self.path}: {name}", found=sizes)
        return TensorInfo(tuple(reversed(sizes)), ggml_type, offset)
