"""A source before cleaning: how to read it, how big it is, and a hash of its bytes."""

import hashlib
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from firstlight import progress
from firstlight.corpus.readers import READERS, Reader
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.spool import SpooledDocument
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, FirstlightError
from firstlight.files import sha256
from firstlight.files.compression import estimate_size, inner_suffix
from firstlight.types import Document

ReadFunction = Callable[[CorpusSettings, Tally], Iterator[Document]]


@dataclass(frozen=True, slots=True)
class RawSource:
    """A source before cleaning.

    Attributes:
        name: as the user gave it.
        read: yields its documents; may be called again.
        n_bytes: size decompressed, an estimate for compressed files; 0 if unknown.
        content_hash: returns a hash of the bytes that will be read.
        files: that are read; none for other sources.
        skipped: why files in a folder were skipped -> how many.
        of_files: returns a source like this one of other files, for its name, the files, and what was skipped.
    """

    name: str
    read: ReadFunction
    n_bytes: int
    content_hash: Callable[[], str]
    files: tuple[Path, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    of_files: "Callable[[str, tuple[Path, ...], Mapping[str, int]], RawSource] | None" = None


def file_source(
    name: str,
    files: Sequence[Path],
    readers: Mapping[str, Reader] = READERS,
    *,
    skipped: Mapping[str, int] | None = None,
) -> RawSource:
    """Return a source of the files of one name, each read by the reader of its suffix.

    Files of an unknown suffix are left out if there are others, otherwise they are read as plain text.

    Args:
        name: as the user gave it.
        files: that it stands for, in order.
        readers: by suffix.
        skipped: why other files were skipped -> how many.
    """
    known = [p for p in files if inner_suffix(p) in readers]
    chosen = known or list(files)
    unknown = ", ".join(sorted({inner_suffix(p) or "no suffix" for p in files if inner_suffix(p) not in readers}))
    if not known:
        progress.notice(f"{name}: no reader for {unknown}; read as plain text")
    elif len(known) < len(files):
        progress.notice(f"{name}: {len(files) - len(known)} of {len(files)} files left out, no reader for {unknown}")

    return _chosen_source(readers, name, tuple(chosen), skipped or {})


def _chosen_source(
    readers: Mapping[str, Reader], name: str, files: tuple[Path, ...], skipped: Mapping[str, int]
) -> RawSource:
    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        def read_one(path: Path) -> Iterator[Document]:
            return readers.get(inner_suffix(path), READERS[".txt"]).read(path, settings, tally)

        yield from read_files(files, read_one, settings, tally)

    of_files = partial(_chosen_source, readers)
    return RawSource(name, read, estimate_size(files), lambda: hash_files(files), files, skipped, of_files)


def read_files(
    files: Sequence[Path], read: Callable[[Path], Iterator[Document]], settings: CorpusSettings, tally: Tally
) -> Iterator[Document]:
    """Yield the documents of files; where one cannot be read, stop or skip the rest of its file, as the settings say.

    Raises:
        CorpusError: a file cannot be read, for whatever reason, or takes too long, and ``on_bad_document`` is "error".
    """
    for path in files:
        documents = _checked(read(path), path, settings)
        yield from documents if settings.on_bad_document == "error" else _skip_bad(documents, tally)


def _checked(documents: Iterator[Document], path: Path, settings: CorpusSettings) -> Iterator[Document]:
    """Limit the time for each document, and name the file in every error."""
    limits = settings.read_limits
    while True:
        start = time.thread_time()
        try:
            document = next(documents, None)
        except FirstlightError:
            raise
        except Exception as error:  # one file of a corpus may hold anything
            raise CorpusError(f"cannot be read: {type(error).__name__}: {error}", where=path) from error
        seconds = time.thread_time() - start
        if seconds > limits.max_seconds:
            raise CorpusError(
                "takes too long to read",
                where=path if document is None else document.source,
                found=f"{seconds:.0f} s",
                expected=f"at most {limits.max_seconds:g} s",
                fix=limits.fix("max_seconds"),
            )
        if document is None:
            return
        yield document


def _skip_bad(documents: Iterator[Document], tally: Tally) -> Iterator[Document]:
    """Yield whole documents until one cannot be read; of that one, no piece."""
    spool: SpooledDocument | None = None
    try:
        for document in documents:
            if spool is None and not document.continues:
                yield document
                continue
            spool = spool or SpooledDocument()
            spool.append(document)
            if not document.continues:
                yield from spool.pieces()
                spool = None
    except CorpusError as error:
        tally.skip(error)
    finally:
        if spool is not None:
            spool.close()


def hash_files(files: Sequence[Path], known: Mapping[Path, str] | None = None) -> str:
    """Hash names and bytes of files; ``known`` are SHA-256 that need not be computed again.

    Raises:
        CorpusError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            name = unicodedata.normalize("NFC", path.name)  # as macOS decomposes it
            digest.update(f"{name}\0{(known or {}).get(path) or sha256(path)}\0".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise CorpusError(f"cannot be read: {error.strerror}", where=path) from error
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """Hash a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
