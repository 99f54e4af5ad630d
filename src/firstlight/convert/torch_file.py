"""Read files of ``torch.save`` with ``weights_only=True``, and within the file's actual size.

Such a file is a pickle. With ``weights_only`` torch accepts tensors and plain containers only, and does not run code
in the file; but it trusts sizes. So a zip archive must be uncompressed, as torch writes it, and is memory-mapped; in
the legacy layout no number may exceed the file's size; and no tensor may be larger than its storage.
"""

import mmap
import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from firstlight.convert.errors import wrap_errors
from firstlight.errors import CheckpointError

_PICKLE = b"\x80"
_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")


def load(path: Path, extra_classes: Sequence[type] = ()) -> Any:
    """Load the tensors and plain containers of a file.

    Args:
        path: of the file.
        extra_classes: further classes that are allowed in it.

    Raises:
        CheckpointError: it is damaged, or contains anything else, such as code.
    """
    with wrap_errors(path, "torch.save file"):
        zipped = zipfile.is_zipfile(path)
        (_check_zip if zipped else _check_pickle)(path)
        with torch.serialization.safe_globals(list(extra_classes)):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
        _check_tensors(content, path)
    return content


def is_torch_file(path: Path) -> bool:
    """Whether a file may be one of ``torch.save``: a zip archive or a pickle."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.read(2)
    return zipfile.is_zipfile(path) or first[:1] == _PICKLE and first[1:2] in _PROTOCOLS


def has_string(path: Path, string: str) -> bool:
    """Whether a string, such as a key of a dictionary, occurs in a file of ``torch.save``; nothing is loaded.

    Raises:
        CheckpointError: the file is damaged.
    """
    with wrap_errors(path, "torch.save file"):
        if not zipfile.is_zipfile(path):
            return any(argument == string for _, argument in _legacy_opcodes(path))
        _check_zip(path)
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(
                argument == string for name in pickles for _, argument, _ in pickletools.genops(archive.read(name))
            )


def state_dict_of(value: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name.

    Raises:
        CheckpointError: it is not a dictionary with string keys.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise CheckpointError("does not contain a state dict", where=path, found=type(value).__name__)
    return {name: tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            "is compressed, unlike the files of torch.save",
            where=path,
            fix="If it is an archive of a model's folder, extract it, and name the folder.",
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError("members are larger than the file", where=path)


def _check_pickle(path: Path) -> None:
    """Refuse a legacy file with a number above its size, since torch would allocate a storage of that size."""
    size = path.stat().st_size
    for part, argument in _legacy_opcodes(path):
        if part == "object" and isinstance(argument, int) and argument > size:
            raise CheckpointError("a storage is larger than the file", where=path, found=f"{argument:,}")


def _legacy_opcodes(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the part and the argument of every opcode in the legacy layout, which is five pickles one after another."""
    # A memory map returns at most what the file has; a plain read would allocate the requested size first.
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        for part in ("magic number", "protocol", "system", "object", "storages"):
            for _, argument, _ in pickletools.genops(cast(IO[bytes], file)):
                yield part, argument


def _check_tensors(content: Any, path: Path) -> None:
    total = 0
    for tensor in _tensors(content):
        n_bytes = tensor.numel() * tensor.element_size()
        total += n_bytes
        # An expanded tensor (stride 0) would grow when it is copied.
        if tensor.layout is not torch.strided or n_bytes > tensor.untyped_storage().nbytes():
            raise CheckpointError("a tensor is larger than its storage", where=path, found=tuple(tensor.shape))
    # Tied weights may occur twice.
    if total > 2 * path.stat().st_size:
        raise CheckpointError("tensors are larger than the file", where=path, found=f"{total:,} bytes")


def _tensors(content: Any) -> Iterator[Tensor]:
    stack, visited = [content], set[int]()
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (Mapping, list, tuple, set)) and id(item) not in visited:
            visited.add(id(item))
            stack += list(item.values()) if isinstance(item, Mapping) else list(item)
