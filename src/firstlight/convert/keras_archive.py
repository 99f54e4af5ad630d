"""A .keras file is a zip archive; what is known of it is unpacked, as far as the file can hold it.

Members are asked for by their names, which stay those of the files that are written; other members are not looked at.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstlight.errors import CheckpointError

_MOST_EXPANSION = 8  # of all members together; trained weights hardly give in
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextmanager
def unpacked(path: Path, names: list[str]) -> Iterator[Path]:
    """Unpack members into a folder that is gone afterwards.

    Args:
        path: the archive.
        names: of the members; those that it lacks are left out.

    Raises:
        CheckpointError: a member is packed otherwise than in Keras's files, or larger than the archive can hold.
    """
    size = path.stat().st_size
    left = _MOST_EXPANSION * size
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        there = set(archive.namelist())
        for name in names:
            if name not in there:
                continue
            member = archive.getinfo(name)
            left -= member.file_size
            is_stored = member.compress_type == zipfile.ZIP_STORED
            if left < 0 or member.compress_size > size or is_stored and member.file_size > size:
                raise CheckpointError(
                    "is cut, or damaged: a member is larger than the file can hold",
                    where=f"{path}: {name}",
                    found=f"{member.file_size:,} bytes in {size:,}",
                )
            if member.compress_type not in _PACKINGS:
                raise CheckpointError("is packed in a way that is not read", where=f"{path}: {name}")
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        yield Path(folder)
