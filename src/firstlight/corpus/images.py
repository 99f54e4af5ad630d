"""Read images: folders of PNG and JPEG files, and arrays (IDX as in MNIST, ``.npy``); a document is one image.

All are resized to one size and converted to grey or colour. A class comes from the first folder below the corpus, or
from a file of labels. Arrays are streamed; images of an array are counted from 0.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from firstlight import progress
from firstlight.corpus.corpus import Corpus, Source
from firstlight.corpus.detect_kind import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    expand_user,
    is_image_file,
    list_files,
)
from firstlight.corpus.fields import skip_or_raise
from firstlight.corpus.image_ops import center_crop_resize, read_image, to_grayscale, to_rgb, upper_part
from firstlight.corpus.pooling import identify, list_names
from firstlight.corpus.raw_source import RawSource, hash_files
from firstlight.corpus.settings import CorpusSettings, ImageSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, UsageError
from firstlight.files.arrays import ArrayHeader, iter_chunks, load_array, read_array_header
from firstlight.files.compression import open_compressed
from firstlight.files.folders import sort_files
from firstlight.files.limits import Limits
from firstlight.types import Document

_DEFAULT_SIZE = 32
_MAX_LABELS = 1 << 27
_MAX_CLASSES = 10_000
_MAX_SIDE = 1 << 14


class _ImageSet(Protocol):
    """The images of one name: an array in one file, or many files of one image each."""

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
    @property
    def skipped(self) -> Mapping[str, int]: ...
    def read(self, every: int, report: Callable[[CorpusError], None]) -> Iterator[Document]: ...


@dataclass(frozen=True, slots=True)
class Images:
    """A corpus of images.

    Attributes:
        corpus: documents of (size, size) or, coloured, (size, size, 3) pixels; ``meta["label"]`` is the class.
        counts: images of each source, before filtering.
        classes: their names in order; empty if images have none.
        size: pixels per side.
        colored: pixels have three channels.
        sample: yields the pixels of every n-th image, reading only those.
    """

    corpus: Corpus
    counts: list[int]
    classes: tuple[str, ...]
    size: int
    colored: bool
    sample: Callable[[int], Iterator[np.ndarray]]


def open_images(
    names: Sequence[str],
    settings: ImageSettings,
    reading: CorpusSettings,
    *,
    settable: bool = True,
    separate: bool = False,
) -> Images:
    """Open the images of all names; only headers and labels are read yet.

    Args:
        names: files, folders or globs.
        settings: of images.
        reading: which links are followed, and what is done about files that cannot be read.
        settable: whether the caller's user can set ``reading``, for the advice of warnings.
        separate: a source for each name, in order; otherwise all files of one image each are one source, in an order
            that does not depend on how they are named.

    Raises:
        CorpusError: a file is damaged or holds no images, the number of labels is wrong, or some images have no class.
        UsageError: labels for no source or for several sources.
    """
    if settings.labels not in ("auto", "none") and len(names) > 1:
        raise UsageError("a file of labels is for one source", where="image.labels", found=" ".join(names))
    found = [_image_set(name, settings.labels, reading, settable=settable) for name in names]
    found = found if separate else _pool(found, settings.labels, reading)
    image_sets = [images for _, images in found]
    classes = set().union(*(images.classes for images in image_sets))
    unlabelled = next((name for name, images in found if not images.classes), None)
    if classes and unlabelled is not None:
        raise UsageError("has images without a class, others have one", where=unlabelled, fix="Set image.labels=none.")
    if len(classes) > _MAX_CLASSES:
        raise CorpusError("has too many classes", where=found[0][0], found=len(classes), expected=_MAX_CLASSES)
    colored = image_sets[0].colored if settings.colors is None else settings.colors == "palette"
    size = settings.size or _common_size({images.side for images in image_sets})
    resolved = settings.model_copy(update={"size": size, "colors": "palette" if colored else "grey"})
    chosen = settings.colors is not None
    sources = [Source(_image_source(name, images, resolved, chosen=chosen), reading) for name, images in found]
    convert = to_rgb if colored else to_grayscale

    def sample(every: int) -> Iterator[np.ndarray]:
        for images in image_sets:
            for document in images.read(every, partial(skip_or_raise, settings=reading, tally=Tally())):
                yield convert(center_crop_resize(np.asarray(document.content), size))

    return Images(
        Corpus(sources), [images.count for images in image_sets], _sort_classes(classes), size, colored, sample
    )


def read_images(name: str, size: int, *, colored: bool, limit: int) -> list[Document]:
    """Read the first images of a file or folder at a size, without classes, such as the prompts of a completion.

    Raises:
        UsageError: there is no such file.
    """
    if not expand_user(name).exists():
        raise UsageError("no such file", where=name, expected="a PNG or JPEG, or an array of images")
    settings = ImageSettings(size=size, colors="palette" if colored else "grey", labels="none")
    try:
        return list(islice(open_images([name], settings, CorpusSettings(), settable=False).corpus, limit))
    except CorpusError as error:
        if error.fix is None or "corpus." not in error.fix:
            raise
        found, expected = error.found, error.expected
        raise CorpusError(error.problem, where=error.where, found=found, expected=expected, fix="Remove it.") from error


def read_upper_part(name: str, size: int, *, colored: bool) -> np.ndarray | None:
    """Read a picture that is the upper part of a square one: (rows, size[, 3]) uint8; None for anything else.

    Raises:
        CorpusError: the file is damaged.
    """
    path = expand_user(name)
    if not path.is_file() or not is_image_file(path):
        return None
    part = upper_part(read_image(path), size)
    return None if part is None else to_rgb(part) if colored else to_grayscale(part)


def _common_size(sides: set[int | None]) -> int:
    known = {side for side in sides if side is not None}
    if len(known) > 1:
        raise UsageError("images have several sizes", where="image.size", found=sorted(known), fix="Set image.size=N")
    return next(iter(known), _DEFAULT_SIZE)


def _sort_classes(classes: set[str]) -> tuple[str, ...]:
    numeric = all(name.isascii() and name.isdigit() for name in classes)
    return tuple(sorted(classes, key=lambda name: (int(name), name) if numeric else (0, name)))


def _image_source(name: str, images: _ImageSet, settings: ImageSettings, *, chosen: bool) -> RawSource:
    """Return a source of images; it is said where one in colour becomes grey and nobody has ``chosen`` that."""
    size = settings.size
    assert size is not None
    convert = to_rgb if settings.colors == "palette" else to_grayscale

    def read(reading: CorpusSettings, tally: Tally) -> Iterator[Document]:
        for document in images.read(1, partial(skip_or_raise, settings=reading, tally=tally)):
            assert isinstance(document.content, np.ndarray)
            pixels = document.content
            is_lost = not chosen and settings.colors == "grey" and pixels.ndim == 3
            if is_lost and (pixels != pixels[..., :1]).any():
                note = "in colour, but read as grey, as the first image is; image.colors=palette reads the colours"
                tally.add_note(note, document.source)
            # Resize first, then convert: grey and colour files of one image get the same brightness.
            yield replace(document, content=convert(center_crop_resize(pixels, size)))

    def identity() -> str:
        table = {"files": hash_files(images.files), "size": size, "colors": settings.colors}
        if images.classes:
            table["labels"] = settings.labels
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    return RawSource(name, read, images.count, identity, tuple(images.files), images.skipped)


def _image_set(name: str, labels: str, reading: CorpusSettings, *, settable: bool) -> tuple[str, _ImageSet]:
    suffixes = (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)
    listed = list_files(name, suffixes, settings=reading, labelled=labels == "auto", settable=settable)
    files = listed.files
    image_files = [
        file for file in files if file.suffix.lower() in IMAGE_SUFFIXES or (len(files) == 1 and is_image_file(file))
    ]
    if image_files:
        names = _class_names(image_files, labels)
        return name, _image_files(image_files, names, reading, listed.skipped)
    if len(files) != 1:
        raise UsageError("is not a single file of images", where=name, found=f"{len(files)} files", fix="Name one.")
    return name, _image_array(files[0], labels, reading.read_limits)


@dataclass(frozen=True, slots=True)
class _ImageFiles:
    files: list[Path]
    names: list[str]
    colored: bool
    skipped: Mapping[str, int]
    side: int | None = None

    @property
    def count(self) -> int:
        return len(self.files)

    @property
    def classes(self) -> set[str]:
        return set(self.names)

    def read(self, every: int, report: Callable[[CorpusError], None]) -> Iterator[Document]:
        for i in range(0, len(self.files), every):
            meta = {"label": self.names[i]} if self.names else {}
            try:
                pixels = read_image(self.files[i])
            except CorpusError as error:
                report(error)
            else:
                yield Document(pixels, str(self.files[i]), meta)


def _class_names(files: Sequence[Path], labels: str) -> list[str]:
    """Return the class of each file, the first folder below the one that holds all; none where it holds all files."""
    if labels not in ("auto", "none"):
        raise UsageError("a file of labels requires an array of images", where="image.labels", found=labels)
    paths = [Path(os.path.abspath(file)) for file in files]  # noqa: PTH100 - ".." is resolved, links are not
    root = Path(os.path.commonpath([path.parent for path in paths]))
    below = [path.relative_to(root).parts for path in paths]
    names = [parts[0] for parts in below if len(parts) > 1] if labels == "auto" else []
    if 0 < len(names) < len(files):
        first = next(file for file, parts in zip(files, below, strict=True) if len(parts) == 1)
        raise CorpusError(
            "is next to the folders of the classes", where=first, fix="Move it, or set image.labels=none."
        )
    return names


def _image_files(
    files: list[Path], names: list[str], reading: CorpusSettings, skipped: Mapping[str, int]
) -> _ImageFiles:
    found = _ImageFiles(files, names, False, skipped)
    report = partial(skip_or_raise, settings=reading, tally=Tally())
    readable = next(found.read(1, report), None)
    if readable is None:
        where = os.path.commonpath([os.path.abspath(file.parent) for file in files])  # noqa: PTH100
        raise CorpusError("holds no image that can be read", where=where, found=f"{len(files)} files")
    return replace(found, colored=np.ndim(readable.content) == 3)


def _pool(found: list[tuple[str, _ImageSet]], labels: str, reading: CorpusSettings) -> list[tuple[str, _ImageSet]]:
    """Return one set of the image files of several names, each file once, and the sets of arrays.

    Where no name has folders of classes below it, those below the folder that holds all names are the classes: the
    folders of the classes may be named themselves.
    """
    sets = [(name, images) for name, images in found if isinstance(images, _ImageFiles)]
    arrays = dict(sorted((name, images) for name, images in found if not isinstance(images, _ImageFiles)))
    if not sets:
        return list(arrays.items())
    files = [file for _, images in sets for file in images.files]
    names = [label for _, images in sets for label in images.names]
    if len(sets) > 1 and not names:
        names = _class_names(files, labels)
    if names and len(names) < len(files):
        return found  # refused: some have no class
    first: dict[object, Path] = {}
    classes = dict(zip(files, names, strict=True)) if names else {}
    for file in files:
        first.setdefault((identify(file), classes.get(file)), file)
    if len(first) < len(files):
        n = len(files) - len(first)
        progress.notice(f"{n:,} image file{'s' * (n != 1)} named twice in the corpus, and counted once")
    files = sort_files(first.values())
    skipped = sum((Counter(images.skipped) for _, images in sets), Counter[str]())
    pooled = _image_files(files, [classes[file] for file in files] if classes else [], reading, skipped)
    return [(list_names([name for name, _ in sets]), pooled), *arrays.items()]


@dataclass(frozen=True, slots=True)
class _ImageArray:
    path: Path
    header: ArrayHeader
    limits: Limits
    labels: list[str]
    label_file: Path | None

    @property
    def files(self) -> list[Path]:
        return [self.path, *([self.label_file] if self.label_file else [])]

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

    @property
    def skipped(self) -> Mapping[str, int]:
        return {}

    def read(self, every: int, report: Callable[[CorpusError], None]) -> Iterator[Document]:
        del report  # where an array is damaged, the images that follow are too
        with open_compressed(self.path, limits=self.limits) as file:
            header = read_array_header(file, self.path)
            shape = header.shape[1:]
            images = iter_chunks(file, self.path, header, chunk_size=int(np.prod(shape)))
            for i, pixels in enumerate(images):
                if i % every:
                    continue
                meta = {"label": self.labels[i]} if self.labels else {}
                yield Document(pixels.reshape(shape), f"{self.path}:{i}", meta)


def _image_array(path: Path, labels: str, limits: Limits) -> _ImageArray:
    with open_compressed(path, limits=limits) as file:
        header = read_array_header(file, path)
    shape = header.shape
    valid = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if not valid or header.dtype != np.uint8 or not 1 <= min(shape) <= max(shape[1:]) <= _MAX_SIDE:
        raise CorpusError(
            "does not hold images",
            where=path,
            found=str(header),
            expected="N × height × width (× 3) of type uint8, from 0 to 255",
            fix="It looks like labels: name the file of images." if len(shape) == 1 else None,
        )
    label_file = _find_labels(path) if labels == "auto" else None if labels == "none" else Path(labels)
    return _ImageArray(
        path, header, limits, [] if label_file is None else _read_labels(label_file, shape[0]), label_file
    )


def _find_labels(path: Path) -> Path | None:
    """Find the file of labels next to an array: named as in MNIST, or ``NAME-labels.npy``."""
    swapped = path.name.replace("images", "labels").replace("idx3", "idx1")
    names = [swapped, f"{path.name.split('.npy')[0]}-labels.npy"]
    candidates = (path.with_name(name) for name in names if name != path.name)
    return next((file for file in candidates if file.is_file()), None)


def _read_labels(path: Path, n: int) -> list[str]:
    if not path.is_file():
        raise UsageError("no such file", where="image.labels", found=path)
    found = load_array(path, max_size=_MAX_LABELS)
    if found.dtype.kind not in "iu" or found.shape != (n,):
        raise CorpusError(
            "does not hold the labels of these images",
            where=path,
            found=f"shape {found.shape} of type {found.dtype}",
            expected=f"{n} integers",
        )
    return [str(label) for label in found.tolist()]
