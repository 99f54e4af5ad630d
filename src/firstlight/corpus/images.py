"""Images: folders of PNG and JPEG, and arrays of them (IDX as MNIST has it, ``.npy``); a document is one image.

All are brought to one size and to grey or colour. A class comes from the first folder below the corpus, or from a
file of labels. Arrays are read as a stream; images of an array are counted from 0.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from firstlight.corpus.corpus import Corpus, Source
from firstlight.corpus.detect_kind import ARRAY_SUFFIXES, IMAGE_SUFFIXES, expand_user, is_image_file, list_files
from firstlight.corpus.image_ops import as_colors, as_grey, fitted, read_picture
from firstlight.corpus.raw_source import Raw, files_identity
from firstlight.corpus.settings import CorpusSettings, ImageSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, UsageError
from firstlight.files.arrays import ArrayHeader, iter_chunks, load_array, read_array_header
from firstlight.files.compression import open_compressed
from firstlight.types import Document

_SIZE = 32
_MOST_LABELS = 1 << 27
_MOST_CLASSES = 10_000
_LONGEST_SIDE = 1 << 14


class _Part(Protocol):
    """Some images of one name: a file of an array, or many files of one image each."""

    @property
    def count(self) -> int: ...
    @property
    def files(self) -> list[Path]: ...
    @property
    def classes(self) -> set[str]: ...
    @property
    def colored(self) -> bool: ...
    @property
    def side(self) -> int | None: ...
    def read(self, every: int = 1) -> Iterator[Document]: ...


@dataclass(frozen=True, slots=True)
class Images:
    """What was found of a corpus of images.

    Attributes:
        corpus: documents of (size, size) or, coloured, (size, size, 3) pixels; ``meta["label"]`` says the class.
        counts: images of each source, before any is left out.
        classes: names in order; none where images have none.
        size: pixels a side.
        colored: pixels have three numbers.
        some: yields the pixels of every n-th image; the pictures between are not read.
    """

    corpus: Corpus
    counts: list[int]
    classes: tuple[str, ...]
    size: int
    colored: bool
    some: Callable[[int], Iterator[np.ndarray]]


def open_images(names: Sequence[str], settings: ImageSettings, reading: CorpusSettings) -> Images:
    """Find the images of each name; only beginnings, and labels, are read yet.

    Raises:
        CorpusError: a file is damaged, holds no images, or its labels are not as many; or some images have no class.
        UsageError: labels that belong to none or to several sources.
    """
    if settings.labels not in ("auto", "none") and len(names) > 1:
        raise UsageError("a file of labels belongs to one source", where="image.labels", found=" ".join(names))
    found = [_parts_of(name, settings.labels) for name in names]
    parts = [part for _, part in found]
    classes = set().union(*(part.classes for part in parts))
    bare = next((name for name, part in found if not part.classes), None)
    if classes and bare is not None:
        raise UsageError("has images without a class, others have one", where=bare, fix="Set image.labels=none.")
    if len(classes) > _MOST_CLASSES:
        raise CorpusError("has too many classes", where=names[0], found=len(classes), expected=_MOST_CLASSES)
    colored = parts[0].colored if settings.colors is None else settings.colors == "palette"
    size = settings.size or _common({part.side for part in parts})
    used = settings.model_copy(update={"size": size, "colors": "palette" if colored else "grey"})
    sources = [Source(_raw(name, part, used), reading) for name, part in found]
    form = as_colors if colored else as_grey

    def some(every: int) -> Iterator[np.ndarray]:
        for part in parts:
            for document in part.read(every):
                yield form(fitted(np.asarray(document.content), size))

    return Images(Corpus(sources), [part.count for part in parts], _in_order(classes), size, colored, some)


def read_images(name: str, size: int, *, colored: bool, limit: int) -> list[Document]:
    """Return the first images that one name means, at a size, without classes: such as what is to be completed.

    Raises:
        UsageError: it means none.
    """
    if not expand_user(name).exists():
        raise UsageError("no such file", where=name, expected="a PNG or JPEG, or an array of images")
    settings = ImageSettings(size=size, colors="palette" if colored else "grey", labels="none")
    return list(islice(open_images([name], settings, CorpusSettings()).corpus, limit))


def _common(sides: set[int | None]) -> int:
    known = {side for side in sides if side is not None}
    if len(known) > 1:
        raise UsageError("images have several sizes", where="image.size", found=sorted(known), fix="Set image.size=N")
    return next(iter(known), _SIZE)


def _in_order(classes: set[str]) -> tuple[str, ...]:
    numbers = all(name.isascii() and name.isdigit() for name in classes)
    return tuple(sorted(classes, key=lambda name: (int(name), name) if numbers else (0, name)))


def _raw(name: str, part: _Part, settings: ImageSettings) -> Raw:
    size = settings.size
    assert size is not None
    form = as_colors if settings.colors == "palette" else as_grey

    def read(_settings: CorpusSettings, _tally: Tally) -> Iterator[Document]:
        for document in part.read():
            assert isinstance(document.content, np.ndarray)
            # Colours are averaged, and the average made grey, whatever the file: so both ways give one brightness.
            yield replace(document, content=form(fitted(document.content, size)))

    def identity() -> str:
        table = {"files": files_identity(part.files), "size": size, "colors": settings.colors}
        if part.classes:
            table["labels"] = settings.labels
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    return Raw(name, read, part.count, identity)


def _parts_of(name: str, labels: str) -> tuple[str, _Part]:
    files = list_files(name, (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES))
    pictures = [
        file for file in files if file.suffix.lower() in IMAGE_SUFFIXES or (len(files) == 1 and is_image_file(file))
    ]
    if pictures:
        return name, _pictures(pictures, labels)
    if len(files) != 1:
        raise UsageError("is no single file of images", where=name, found=f"{len(files)} files", fix="Name one.")
    return name, _array(files[0], labels)


@dataclass(frozen=True, slots=True)
class _Pictures:
    files: list[Path]
    names: list[str]
    colored: bool
    side: int | None = None

    @property
    def count(self) -> int:
        return len(self.files)

    @property
    def classes(self) -> set[str]:
        return set(self.names)

    def read(self, every: int = 1) -> Iterator[Document]:
        for i in range(0, len(self.files), every):
            meta = {"label": self.names[i]} if self.names else {}
            yield Document(read_picture(self.files[i]), str(self.files[i]), meta)


def _pictures(files: list[Path], labels: str) -> _Pictures:
    if labels not in ("auto", "none"):
        raise UsageError("a file of labels goes with an array of images", where="image.labels", found=labels)
    root = Path(os.path.commonpath([file.parent for file in files]))
    below = [file.relative_to(root).parts for file in files]
    names = [parts[0] for parts in below if len(parts) > 1] if labels == "auto" else []
    if 0 < len(names) < len(files):
        first = next(file for file, parts in zip(files, below, strict=True) if len(parts) == 1)
        raise CorpusError(
            "lies beside the folders of the classes", where=first, fix="Move it, or set image.labels=none."
        )
    return _Pictures(files, names, read_picture(files[0]).ndim == 3)


@dataclass(frozen=True, slots=True)
class _Array:
    path: Path
    header: ArrayHeader
    labels: list[str]
    labelled_by: Path | None

    @property
    def files(self) -> list[Path]:
        return [self.path, *([self.labelled_by] if self.labelled_by else [])]

    @property
    def count(self) -> int:
        return self.header.shape[0]

    @property
    def classes(self) -> set[str]:
        return set(self.labels)

    @property
    def colored(self) -> bool:
        return len(self.header.shape) == 4

    @property
    def side(self) -> int | None:
        return min(self.header.shape[1:3])

    def read(self, every: int = 1) -> Iterator[Document]:
        with open_compressed(self.path) as file:
            header = read_array_header(file, self.path)
            form = header.shape[1:]
            images = iter_chunks(file, self.path, header, chunk_size=int(np.prod(form)))
            for i, pixels in enumerate(images):
                if i % every:
                    continue
                meta = {"label": self.labels[i]} if self.labels else {}
                yield Document(pixels.reshape(form), f"{self.path}:{i}", meta)


def _array(path: Path, labels: str) -> _Array:
    with open_compressed(path) as file:
        header = read_array_header(file, path)
    shape = header.shape
    good = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if not good or header.dtype != np.uint8 or not 1 <= min(shape) <= max(shape[1:]) <= _LONGEST_SIDE:
        raise CorpusError(
            "holds no images",
            where=path,
            found=f"{' × '.join(map(str, shape))} numbers of type {header.dtype}",
            expected="N × height × width (× 3) of type uint8, from 0 to 255",
            fix="These are labels: name the file of images." if len(shape) == 1 else None,
        )
    by = _beside(path) if labels == "auto" else None if labels == "none" else Path(labels)
    return _Array(path, header, [] if by is None else _labels(by, shape[0]), by)


def _beside(path: Path) -> Path | None:
    """Return the file of labels that lies beside an array, by its name: as MNIST has it, or ``NAME-labels.npy``."""
    swapped = path.name.replace("images", "labels").replace("idx3", "idx1")
    names = [swapped, f"{path.name.split('.npy')[0]}-labels.npy"]
    there = (path.with_name(name) for name in names if name != path.name)
    return next((file for file in there if file.is_file()), None)


def _labels(path: Path, n: int) -> list[str]:
    if not path.is_file():
        raise UsageError("no such file", where="image.labels", found=path)
    found = load_array(path, max_size=_MOST_LABELS)
    if found.dtype.kind not in "iu" or found.shape != (n,):
        raise CorpusError(
            "are no labels of these images",
            where=path,
            found=f"shape {found.shape} of type {found.dtype}",
            expected=f"{n} integers",
        )
    return [str(label) for label in found.tolist()]
