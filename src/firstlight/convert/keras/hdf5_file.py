"""Read untrusted HDF5 files, in which Keras stores weights, with bounded memory.

Links, external files, virtual datasets, filters of plugins, and types other than floats are refused. All arrays
together may be at most a few times the size of the file, however it is compressed. This does not protect against bugs
in the HDF5 library's own parser.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from firstlight.convert.imported_model import finite_fp32
from firstlight.errors import CheckpointError

_MAX_EXPANSION = 8  # of compressed data; trained weights hardly compress
_MAX_MEMBERS = 1 << 16  # of a group
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)


class HDF5File:
    """An HDF5 file of weights.

    Args:
        path: of the file.
        where: its name in error messages.
    """

    def __init__(self, path: Path, where: object) -> None:
        self.where = where
        self._bytes_left = _MAX_EXPANSION * path.stat().st_size
        self._file = h5py.File(path, "r")

    def close(self) -> None:
        """Close the file; arrays that were read stay valid."""
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return self._get(name) is not None

    def members(self, name: str) -> list[str]:
        """Return the names in a group; none if there is no such group.

        Raises:
            CheckpointError: there are too many.
        """
        group = self._get(name)
        if not isinstance(group, h5py.Group):
            return []
        if len(group) > _MAX_MEMBERS:
            raise CheckpointError(
                "too many members of a group",
                where=f"{self.where}: {name}",
                found=f"{len(group):,}",
                expected=f"at most {_MAX_MEMBERS:,}",
            )
        return list(group)

    def string_attribute(self, name: str, key: str) -> str | None:
        """Return an attribute of a group if it is a string."""
        group = self._get(name)
        if group is None or key not in group.attrs or group.attrs.get_id(key).shape != ():
            return None
        value = group.attrs[key]
        return value if isinstance(value, str) else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array.

        Raises:
            CheckpointError: it is missing.
        """
        return _shape(self._dataset(name))

    def array(self, name: str, shape: Sequence[int]) -> Tensor:
        """Read an array as fp32.

        Args:
            name: its path in the file.
            shape: the expected shape.

        Raises:
            CheckpointError: it is missing, not stored in this file, not an array of floats, too large for the file, or
                has another shape.
        """
        dataset, where = self._dataset(name), f"{self.where}: {name}"
        dtype, found = dataset.dtype, _shape(dataset)
        if found != tuple(shape):
            raise CheckpointError("wrong shape of a weight", where=where, found=found, expected=tuple(shape))
        # HDF5 has no bfloat16, so Keras writes it as opaque data of two bytes.
        is_bfloat16 = dtype.str == "|V2" and dtype.names is None
        if not (dtype.kind == "f" or is_bfloat16) or dtype.subdtype is not None:
            raise CheckpointError("not an array of floats", where=where, found=str(dtype)[:80])
        n_bytes = math.prod(found) * dtype.itemsize
        self._check_storage(dataset, where, n_bytes)
        self._bytes_left -= n_bytes
        values = dataset[()]
        if is_bfloat16:
            bits = np.frombuffer(values.tobytes(), dtype="<u2").astype(np.uint32) << 16
            values = bits.view(np.float32).reshape(found)
        return finite_fp32(where, torch.from_numpy(np.array(values, dtype=np.float32)))

    def _check_storage(self, dataset: Any, where: str, n_bytes: int) -> None:
        properties = dataset.id.get_create_plist()
        if dataset.external or dataset.is_virtual:
            raise CheckpointError("data in another file is not read", where=where)
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        if any(number not in _FILTERS for number in filters):
            raise CheckpointError("unsupported compression", where=where, found=filters)
        chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        if max(n_bytes, chunk) > self._bytes_left or n_bytes and not dataset.id.get_storage_size():
            raise CheckpointError("truncated or damaged: an array is too large for the file", where=where)

    def _dataset(self, name: str) -> Any:
        dataset = self._get(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise CheckpointError("missing weight", where=self.where, expected=name)
        return dataset

    def _get(self, name: str) -> Any:
        """Return the group or dataset at a path, or None; soft and external links are refused."""
        item: Any = self._file
        for part in name.split("/"):
            link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise CheckpointError("links are not followed", where=f"{self.where}: {name}")
            item = item[part]
        return item


def _shape(dataset: Any) -> tuple[int, ...]:
    return tuple(map(int, dataset.shape))
