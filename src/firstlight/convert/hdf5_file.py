"""HDF5, read without believing what a file says of itself, as Keras keeps weights in it.

Only what lies in the file is followed: no links, no data in other files, no virtual data, no filters but those of
HDF5 itself, no types but numbers. All that is read together may be a few times the file, however it is packed.
What damage the library's own parser of the format could take from a file that was made for that is not in our hands.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from firstlight.convert.imported_model import finite
from firstlight.errors import CheckpointError

_MOST_EXPANSION = 8  # of packed numbers; trained weights hardly give in
_MOST_MEMBERS = 1 << 16  # of a group
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)


class HDF5:
    """An HDF5 file.

    Args:
        path: of the file.
        where: what messages call it.
    """

    def __init__(self, path: Path, where: object) -> None:
        self.where = where
        self._left = _MOST_EXPANSION * path.stat().st_size
        self._file = h5py.File(path, "r")

    def close(self) -> None:
        """Close the file; what was read stays."""
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return self._at(name) is not None

    def members(self, name: str) -> list[str]:
        """Return the names in a group; none where there is no group.

        Raises:
            CheckpointError: more than any model has.
        """
        group = self._at(name)
        if not isinstance(group, h5py.Group):
            return []
        if len(group) > _MOST_MEMBERS:
            raise CheckpointError(
                "has more layers than any model", where=f"{self.where}: {name}", found=f"{len(group):,}"
            )
        return list(group)

    def text(self, name: str, key: str) -> str | None:
        """Return an attribute of a group that is a short text, or None."""
        group = self._at(name)
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
        """Return an array in fp32.

        Args:
            name: its path in the file.
            shape: that it must have.

        Raises:
            CheckpointError: it is missing, lies elsewhere, is no array of numbers, has another shape, or is larger
                than the file can hold.
        """
        dataset, where = self._dataset(name), f"{self.where}: {name}"
        kind, found = dataset.dtype, _shape(dataset)
        if found != tuple(shape):
            raise CheckpointError(
                "a weight has another shape than the model", where=where, found=found, expected=tuple(shape)
            )
        # HDF5 has no name for bfloat16, so Keras writes two bytes without one.
        is_bfloat16 = kind.str == "|V2" and kind.names is None
        if not (kind.kind == "f" or is_bfloat16) or kind.subdtype is not None:
            raise CheckpointError("holds something else than numbers", where=where, found=str(kind)[:80])
        n_bytes = math.prod(found) * kind.itemsize
        self._check_storage(dataset, where, n_bytes)
        self._left -= n_bytes
        values = dataset[()]
        if is_bfloat16:
            bits = np.frombuffer(values.tobytes(), dtype="<u2").astype(np.uint32) << 16
            values = bits.view(np.float32).reshape(found)
        return finite(where, torch.from_numpy(np.array(values, dtype=np.float32)))

    def _check_storage(self, dataset: Any, where: str, n_bytes: int) -> None:
        layout = dataset.id.get_create_plist()
        if dataset.external or dataset.is_virtual:
            raise CheckpointError("keeps its numbers in another file", where=where)
        filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
        if any(number not in _FILTERS for number in filters):
            raise CheckpointError("is packed in a way that is not read", where=where, found=filters)
        chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        if max(n_bytes, chunk) > self._left or n_bytes and not dataset.id.get_storage_size():
            raise CheckpointError("is cut, or damaged: an array is larger than the file can hold", where=where)

    def _dataset(self, name: str) -> Any:
        found = self._at(name)
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise CheckpointError("a weight is missing", where=self.where, expected=name)
        return found

    def _at(self, name: str) -> Any:
        """Return what stands at a path, or None; links of any kind are refused."""
        place: Any = self._file
        for part in name.split("/"):
            link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise CheckpointError("holds a link, which is not followed", where=f"{self.where}: {name}")
            place = place[part]
        return place


def _shape(dataset: Any) -> tuple[int, ...]:
    return tuple(map(int, dataset.shape))
