"""Infer what a corpus is made of (text, token ids or images) from suffixes and first bytes."""

from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Literal

from firstlight import progress
from firstlight.corpus.artifacts import check_not_artifact
from firstlight.corpus.readers import READERS, load_readers
from firstlight.corpus.settings import CorpusSettings
from firstlight.errors import CorpusError, MissingExtra, UsageError
from firstlight.files.compression import inner_suffix, open_compressed
from firstlight.files.folders import Listing, list_folder, list_glob

Kind = Literal["text", "ids", "images"]

FOLLOW_SETTING = "corpus.follow_symlinks=true"
SKIP_SETTING = "corpus.skip=false"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAY_SUFFIXES = (".npy", ".bin")
_IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
# A folder with this many images per text, such as a licence, is a folder of images.
_IMAGES_PER_TEXT = 10


def infer_kind(names: Sequence[str], settings: CorpusSettings | None = None) -> Kind:
    """Infer what a corpus is made of; ``settings.readers`` may add suffixes of text.

    Raises:
        UsageError: it mixes kinds.
        CorpusError: a folder that may be text or images, or a file whose header cannot be read.
    """
    text_suffixes = READERS if settings is None else load_readers(settings.readers)
    settings = settings or CorpusSettings()
    kinds = {name: _infer_name_kind(name, text_suffixes, settings) for name in names}
    if len(set(kinds.values())) > 1:
        raise UsageError(
            "a corpus is text, ids or images",
            found=", ".join(f"{name}: {kind}" for name, kind in kinds.items()),
            fix="Name files of one kind.",
        )
    return next(iter(kinds.values()), "text")


def list_files(
    name: str,
    suffixes: Container[str] | None = None,
    *,
    settings: CorpusSettings,
    notify: bool = True,
    labelled: bool = False,
    settable: bool = True,
) -> Listing:
    """List a file, or the files of a folder or glob that have one of ``suffixes``, sorted.

    Args:
        name: of a file, folder or glob.
        suffixes: without that of a compression; None for all.
        settings: which links are followed, and whether files that are not data are skipped.
        notify: send notices about what is left out.
        settable: whether the caller's user can set ``settings``, for the advice of notices.
        labelled: whether folders are labels, so that a file under a second name counts as left out.

    Raises:
        UsageError: the root of the file system, or of the kernel's.
    """
    path = expand_user(name)
    if path.is_file():
        return Listing([path])
    walk = list_folder if path.is_dir() else list_glob
    found = walk(path, follow_symlinks=settings.follow_symlinks, skip=settings.skip)
    if notify:
        skipped = found.describe_skipped(SKIP_SETTING if settable else None)
        if skipped:
            progress.notice(f"{name}: {skipped}")
        for remark in found.remarks(FOLLOW_SETTING if settable else None, labelled=labelled):
            progress.warn(f"{name}: {remark}")
    found.files = [file for file in found.files if suffixes is None or inner_suffix(file) in suffixes]
    return found


def expand_user(name: str) -> Path:
    """Return a name as a path, ``~`` replaced by the user's home folder if there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_image_file(path: Path) -> bool:
    """Whether a file is a PNG or JPEG, by its suffix or its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with open_compressed(path) as file:
        return file.read(8).startswith(_IMAGE_MAGIC)


def _infer_name_kind(name: str, text_suffixes: Container[str], settings: CorpusSettings) -> Kind:
    path = expand_user(name)
    try:
        if path.is_file() or path.is_dir():
            check_not_artifact(path)
        if path.is_file():
            return infer_file_kind(path, text_suffixes)
        if not path.is_dir() and not any(c in name for c in "*?["):
            return "text"
        files = list_files(name, settings=settings, notify=False).files
    except OSError:  # such as a name that is too long for any file
        return "text"
    counts = Counter(inner_suffix(file) for file in files)
    text = sum(n for suffix, n in counts.items() if suffix in text_suffixes)
    images = sum(counts[suffix] for suffix in IMAGE_SUFFIXES if suffix not in text_suffixes)
    if images and images >= text:
        if images <= _IMAGES_PER_TEXT * text:
            raise CorpusError(
                "may be text or images",
                where=name,
                found=f"{text} text files, {images} images",
                fix="Name the files of one kind, such as 'FOLDER/**/*.png'.",
            )
        return "images"
    arrays = [] if text or images else [file for file in files if inner_suffix(file) in ARRAY_SUFFIXES]
    return infer_file_kind(arrays[0]) if arrays else "text"


def infer_file_kind(path: Path, text_suffixes: Container[str] = READERS) -> Kind:
    """Infer what a file is: text, ids, or one or more images."""
    suffix = inner_suffix(path)
    if suffix in text_suffixes:
        return "text"
    if suffix == ".bin" or path.suffix.lower() in IMAGE_SUFFIXES:
        return "ids" if suffix == ".bin" else "images"
    # Loads numpy, which text files do not need.
    from firstlight.files.arrays import NPY_MAGIC, is_idx, read_idx_header, read_npy_header

    try:
        with open_compressed(path) as file:
            start = file.read(8)
            if start[: len(NPY_MAGIC)] == NPY_MAGIC:
                return "ids" if len(read_npy_header(file, path, start).shape) <= 2 else "images"
            if is_idx(start):
                return "ids" if len(read_idx_header(file, path, start).shape) == 2 else "images"
    except (CorpusError, MissingExtra):
        if suffix == ".npy":
            raise
        return "text"  # its reader reports the error
    if suffix == ".npy":
        raise CorpusError("is not an .npy file", where=path, found=repr(start), expected=repr(NPY_MAGIC))
    return "images" if start.startswith(_IMAGE_MAGIC) else "text"
