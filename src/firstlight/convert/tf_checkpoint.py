"""TensorFlow's checkpoint layout (tensor bundle), read without TensorFlow.

``NAME.index`` is a sorted string table as LevelDB writes it (blocks of keys that share prefixes, each with a type and a
checksum behind it; the last 48 bytes point at the block of blocks); its values are BundleEntryProto messages, which say
type, shape, file and place of each tensor. ``NAME.data-00000-of-00001`` holds the bytes.
Sources: tensorflow/core/util/tensor_bundle, leveldb's doc/table_format.md.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import CheckpointError
from firstlight.files import BoundedReader, iter_fields, read_varint

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    19: np.dtype("<f2"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


class TFCheckpoint:
    """A checkpoint.

    Args:
        prefix: the path without ``.index``.

    Raises:
        CheckpointError: a file is missing, cut or damaged.
    """

    def __init__(self, prefix: Path) -> None:
        self._index = prefix.with_name(prefix.name + ".index")
        self._prefix = prefix
        data = BoundedReader(self._index, CheckpointError)
        if data.size < _FOOTER:
            raise self._damaged("shorter than its end")
        data.offset = data.size - _FOOTER
        footer = data.read(_FOOTER)
        if int.from_bytes(footer[-8:], "little") != _MAGIC:
            raise CheckpointError("is no index of a TensorFlow checkpoint", where=self._index)
        _, at = self._handle(footer, 0)
        data.offset = 0
        whole = data.read(data.size)
        self._entries: dict[str, _Entry] = {}
        shards = 1
        for _, pointer in self._pairs(whole, self._handle(footer, at)[0]):
            for key, value in self._pairs(whole, self._handle(pointer, 0)[0]):
                if key:
                    self._entries[key.decode("utf-8", "replace")] = self._entry(value)
                else:
                    shards = int(dict(iter_fields(value)).get(1, 1))
        if not 0 < shards <= 10_000:
            raise self._damaged(f"{shards} files of data")
        self._shards = shards

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return list(self._entries)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor.

        Raises:
            CheckpointError: it is missing, of a type that holds no numbers, or outside of its file.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError("a weight is missing", where=self._index, expected=name)
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None or entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise CheckpointError(
                "has a tensor of a size or type that is not read",
                where=f"{self._index}: {name}",
                found=f"type {entry.dtype}, shape {entry.shape}, {entry.size:,} bytes",
            )
        file = f"{self._prefix.name}.data-{entry.shard:05d}-of-{self._shards:05d}"
        data = BoundedReader(self._prefix.with_name(file), CheckpointError)
        data.offset = entry.offset
        return np.array(data.read_array(dtype, entry.shape))

    def _damaged(self, found: object) -> CheckpointError:
        return CheckpointError("is damaged", where=self._index, found=found)

    def _handle(self, data: bytes, at: int) -> tuple[tuple[int, int], int]:
        """Return where a block lies: offset and size."""
        offset, at = read_varint(data, at)
        size, at = read_varint(data, at)
        return (offset, size), at

    def _pairs(self, whole: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs of a block; each key keeps a prefix of the one before."""
        offset, size = handle
        if size < 4 or offset + size + 5 > len(whole):
            raise self._damaged(f"a block at byte {offset} of {size} bytes")
        if whole[offset + size] != 0:
            raise CheckpointError("is compressed, which is not read", where=self._index)
        block = whole[offset : offset + size]
        end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
        key, at = b"", 0
        while at < end:
            shared, at = read_varint(block, at)
            own, at = read_varint(block, at)
            length, at = read_varint(block, at)
            if shared > len(key) or at + own + length > end:
                raise self._damaged(f"an entry at byte {offset + at}")
            key = key[:shared] + block[at : at + own]
            yield key, block[at + own : at + own + length]
            at += own + length

    def _entry(self, data: bytes) -> _Entry:
        found: dict[int, Any] = {1: 0, 2: b"", 3: 0, 4: 0, 5: 0} | dict(iter_fields(data))
        if not isinstance(found[2], bytes) or not all(isinstance(found[n], int) for n in (1, 3, 4, 5)):
            raise self._damaged("an entry of another kind")
        sizes = [dict(iter_fields(dim)).get(1, 0) for n, dim in iter_fields(found[2]) if n == 2]
        if not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in sizes):
            raise self._damaged(f"a shape {sizes}")
        return _Entry(found[1], tuple(sizes), found[3], found[4], found[5])
