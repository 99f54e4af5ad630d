"""What torch.save wrote, read with weights_only=True, within the file's real size.

Such a file is a pickle. With weights_only torch admits tensors and plain containers, and runs no code of the file; it
still believes sizes. So a zip must be stored as torch writes it, uncompressed, and is mapped, not read; in the older
layout no number may exceed the file; and a tensor must own as many numbers as it shows.
"""

import mmap
import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from firstlight.convert.imported_model import guarded
from firstlight.errors import CheckpointError

_WHAT = "file of torch"


def load(path: Path, also: Sequence[type] = ()) -> Any:
    """Return what the file holds: tensors in plain containers.

    Args:
        path: the file.
        also: further classes that it may hold.

    Raises:
        CheckpointError: it is damaged, or holds anything else, such as code.
    """
    with guarded(path, _WHAT, "all"):
        zipped = zipfile.is_zipfile(path)
        (_check_zip if zipped else _check_pickle)(path)
        with torch.serialization.safe_globals(list(also)):
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
        _check_tensors(held, path)
    return held


def tensors_of(table: Any, path: Path) -> dict[str, Tensor]:
    """Return a table of weights by name.

    Raises:
        CheckpointError: it is none.
    """
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table):
        raise CheckpointError("holds no table of weights", where=path, found=type(table).__name__)
    return {name: value for name, value in table.items() if isinstance(value, Tensor)}


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError("is compressed, which torch's own files are not", where=path)
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError("claims more than it holds", where=path)


def _check_pickle(path: Path) -> None:
    """Refuse the older layout, pickles end to end, where a number in it exceeds the file: storages are made by them."""
    size = path.stat().st_size
    # Mapped, a read of more than there is gives what there is; of a file it would make room for all that was asked.
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        for part in ("magic number", "protocol", "system", "object", "storages"):
            for _, argument, _ in pickletools.genops(cast(IO[bytes], file)):
                if part == "object" and isinstance(argument, int) and argument > size:
                    raise CheckpointError("claims more than it holds", where=path, found=f"{argument:,}")


def _check_tensors(held: Any, path: Path) -> None:
    shown = 0
    for tensor in _tensors(held):
        count = tensor.numel() * tensor.element_size()
        shown += count
        # A tensor that repeats its numbers by strides of 0 would grow when it is copied.
        if tensor.layout is not torch.strided or count > tensor.untyped_storage().nbytes():
            raise CheckpointError("has a tensor that shows more than it holds", where=path, found=tuple(tensor.shape))
    # Tied weights may stand there twice.
    if shown > 2 * path.stat().st_size:
        raise CheckpointError("has tensors that show more than it holds", where=path, found=f"{shown:,} bytes")


def _tensors(held: Any) -> Iterator[Tensor]:
    waiting, seen = [held], set[int]()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (Mapping, list, tuple, set)) and id(item) not in seen:
            seen.add(id(item))
            waiting += list(item.values()) if isinstance(item, Mapping) else list(item)
