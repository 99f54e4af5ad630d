"""What a corpus is made of: text, token ids or images; told by suffixes, and by first bytes where these say nothing."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from firstlight.corpus.readers import READERS
from firstlight.errors import CorpusError, MissingExtra, UsageError
from firstlight.files.compression import inner_suffix, open_compressed

Kind = Literal["text", "ids", "images"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAY_SUFFIXES = (".npy", ".bin")
_FIRST = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
# Images among which a few texts lie, such as a licence, are no text.
_FEW = 10


def infer_kind(names: Sequence[str]) -> Kind:
    """Return what a corpus is made of.

    Raises:
        UsageError: it mixes kinds.
        CorpusError: a folder that may be text as well as images, or a file whose beginning cannot be read.
    """
    kinds = {name: _kind_of_name(name) for name in names}
    if len(set(kinds.values())) > 1:
        raise UsageError(
            "a corpus is text, ids or images",
            found=", ".join(f"{name}: {kind}" for name, kind in kinds.items()),
            fix="Name files of one kind.",
        )
    return next(iter(kinds.values()), "text")


def list_files(name: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the file that a name is, or those of a folder or a pattern that have one of ``suffixes``."""
    path = expand_user(name)
    if path.is_file():
        return [path]
    return [file for file in _listed(path) if inner_suffix(file) in suffixes]


def expand_user(name: str) -> Path:
    """Return a name as a path, ``~`` replaced by the user's own folder where there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _listed(path: Path) -> list[Path]:
    """Return the files below a folder, hidden ones left out, or those that match a pattern."""
    if not path.is_dir():
        return sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())  # noqa: PTH207
    found = []
    for folder, below, files in os.walk(path):
        below[:] = [entry for entry in below if not entry.startswith(".")]
        found += [Path(folder) / file for file in files if not file.startswith(".")]
    return sorted(found)


def is_image_file(path: Path) -> bool:
    """Tell a PNG or JPEG by its suffix, or by its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with open_compressed(path) as file:
        return file.read(8).startswith(_FIRST)


def _kind_of_name(name: str) -> Kind:
    path = expand_user(name)
    try:
        if path.is_file():
            return infer_file_kind(path)
        if not path.is_dir() and not any(c in name for c in "*?["):
            return "text"
        files = _listed(path)
    except OSError:  # such as a name that is too long for any file
        return "text"
    counts = Counter(inner_suffix(file) for file in files)
    text = sum(n for suffix, n in counts.items() if suffix in READERS)
    images = sum(counts[suffix] for suffix in IMAGE_SUFFIXES)
    if images and images >= text:
        if images <= _FEW * text:
            raise CorpusError(
                "may be text or images",
                where=name,
                found=f"{text} files of text, {images} images",
                fix="Name the files of one kind, such as 'FOLDER/**/*.png'.",
            )
        return "images"
    arrays = [] if text or images else [file for file in files if inner_suffix(file) in ARRAY_SUFFIXES]
    return infer_file_kind(arrays[0]) if arrays else "text"


def infer_file_kind(path: Path) -> Kind:
    """Return what a file is: text, ids, or one or many images."""
    suffix = inner_suffix(path)
    if suffix in READERS:
        return "text"
    if suffix == ".bin" or path.suffix.lower() in IMAGE_SUFFIXES:
        return "ids" if suffix == ".bin" else "images"
    from firstlight.files.arrays import NPY_MAGIC, is_idx, read_idx_header, read_npy_header  # no file of text gets here

    try:
        with open_compressed(path) as file:
            first = file.read(8)
            if first[: len(NPY_MAGIC)] == NPY_MAGIC:
                return "ids" if len(read_npy_header(file, path, first).shape) <= 2 else "images"
            if is_idx(first):
                return "ids" if len(read_idx_header(file, path, first).shape) == 2 else "images"
    except (CorpusError, MissingExtra):
        if suffix == ".npy":
            raise
        return "text"  # whoever reads it says what is wrong
    if suffix == ".npy":
        raise CorpusError("is no .npy file", where=path, found=repr(first), expected=repr(NPY_MAGIC))
    return "images" if first.startswith(_FIRST) else "text"
