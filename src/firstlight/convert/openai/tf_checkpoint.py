"""Read TensorFlow's checkpoints (tensor bundles) without TensorFlow.

``NAME.index`` is a sorted string table in LevelDB's format: blocks of keys that share prefixes, each block followed by
a compression type and a checksum; the last 48 bytes point to the index block. Its values are BundleEntryProto messages
with the type, shape, file and offset of each tensor. ``NAME.data-00000-of-00001`` contains the data.
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
_FOOTER_BYTES = 48
_MAX_SHARDS = 10_000
_MAX_KEYS, _MAX_KEY_BYTES = 100_000, 1024  # keys share prefixes, so that a small file could hold many long ones
_DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    19: np.dtype("<f2"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a tensor is; ``dtype`` is one of TensorFlow's DataType."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


class TFCheckpoint:
    """A checkpoint of TensorFlow.

    Args:
        prefix: its path without ``.index``.

    Raises:
        CheckpointError: the index is missing, truncated or damaged.
    """

    def __init__(self, prefix: Path) -> None:
        self._index = prefix.with_name(prefix.name + ".index")
        self._prefix = prefix
        data = BoundedReader(self._index, CheckpointError)
        if data.size < _FOOTER_BYTES:
            raise self._damaged("shorter than its footer")
        data.offset = data.size - _FOOTER_BYTES
        footer = data.read(_FOOTER_BYTES)
        if int.from_bytes(footer[-8:], "little") != _MAGIC:
            raise CheckpointError("not the index of a TensorFlow checkpoint", where=self._index)
        _, end = self._block_handle(footer, 0)  # of the metaindex block, which is empty
        index_block, _ = self._block_handle(footer, end)
        data.offset = 0
        content = data.read(data.size)
        self._entries: dict[str, _Entry] = {}
        self._n_keys = self._n_read = 0
        n_shards = 1
        for _, handle in self._block(content, index_block):
            for key, value in self._block(content, self._block_handle(handle, 0)[0]):
                if key:
                    self._entries[key.decode("utf-8", "replace")] = self._entry(value)
                else:  # the header of the bundle
                    n_shards = int(dict(iter_fields(value)).get(1, 1))
        if not 0 < n_shards <= _MAX_SHARDS:
            raise self._damaged(f"{n_shards} data files")
        self._n_shards = n_shards
        self._data_bytes = sum(path.stat().st_size for path in prefix.parent.glob(f"{prefix.name}.data-*"))

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        return list(self._entries)

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor.

        Raises:
            CheckpointError: it is missing, truncated, or of an unsupported type.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError("missing weight", where=self._index, expected=name)
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None or entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise CheckpointError(
                "unsupported type or size of a tensor",
                where=f"{self._index}: {name}",
                found=f"type {entry.dtype}, shape {entry.shape}, {entry.size:,} bytes",
            )
        file = f"{self._prefix.name}.data-{entry.shard:05d}-of-{self._n_shards:05d}"
        data = BoundedReader(self._prefix.with_name(file), CheckpointError)
        self._n_read += entry.size
        if self._n_read > self._data_bytes:
            raise self._damaged("tensors that are larger than the data")
        data.offset = entry.offset
        return np.array(data.read_array(dtype, entry.shape))

    def _damaged(self, found: object) -> CheckpointError:
        return CheckpointError("damaged", where=self._index, found=found)

    def _block_handle(self, data: bytes, at: int) -> tuple[tuple[int, int], int]:
        """Read the offset and size of a block; return also where the handle ends."""
        offset, at = read_varint(data, at)
        size, at = read_varint(data, at)
        return (offset, size), at

    def _block(self, content: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and values of a block; each key may share a prefix with the previous one."""
        offset, size = handle
        if size < 4 or offset + size + 5 > len(content):
            raise self._damaged(f"a block of {size} bytes at byte {offset}")
        if content[offset + size] != 0:
            raise CheckpointError("compressed blocks are not supported", where=self._index)
        block = content[offset : offset + size]
        end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
        key, at = b"", 0
        while at < end:
            shared, at = read_varint(block, at)
            unshared, at = read_varint(block, at)
            length, at = read_varint(block, at)
            if shared > len(key) or at + unshared + length > end:
                raise self._damaged(f"an entry at byte {offset + at}")
            key = key[:shared] + block[at : at + unshared]
            self._n_keys += 1
            if self._n_keys > _MAX_KEYS or len(key) > _MAX_KEY_BYTES:
                raise self._damaged(f"{self._n_keys:,} names, one of {len(key):,} bytes")
            yield key, block[at + unshared : at + unshared + length]
            at += unshared + length

    def _entry(self, data: bytes) -> _Entry:
        message: dict[int, Any] = {1: 0, 2: b"", 3: 0, 4: 0, 5: 0} | dict(iter_fields(data))
        if not isinstance(message[2], bytes) or not all(isinstance(message[n], int) for n in (1, 3, 4, 5)):
            raise self._damaged("an invalid entry")
        shape = [dict(iter_fields(dim)).get(1, 0) for n, dim in iter_fields(message[2]) if n == 2]
        if not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in shape):
            raise self._damaged(f"a shape {shape}")
        return _Entry(message[1], tuple(shape), message[3], message[4], message[5])
