"""A source before cleaning: how to read it, how big it is, and a hash of its bytes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight import progress
from firstlight.corpus.readers import READERS, Reader
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
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
    """

    name: str
    read: ReadFunction
    n_bytes: int
    content_hash: Callable[[], str]


def file_source(name: str, files: Sequence[Path], readers: Mapping[str, Reader] = READERS) -> RawSource:
    """Return a source of files, each read by the reader of its suffix.

    Files of an unknown suffix are left out if there are others, otherwise they are read as plain text.
    """
    known = [p for p in files if inner_suffix(p) in readers]
    chosen = known or list(files)
    unknown = ", ".join(sorted({inner_suffix(p) or "no suffix" for p in files if inner_suffix(p) not in readers}))
    if not known:
        progress.notice(f"{name}: no reader for {unknown}; read as plain text")
    elif len(known) < len(files):
        progress.notice(f"{name}: {len(files) - len(known)} of {len(files)} files left out, no reader for {unknown}")

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        for path in chosen:
            yield from readers.get(inner_suffix(path), READERS[".txt"]).read(path, settings, tally)

    return RawSource(name, read, estimate_size(chosen), lambda: hash_files(chosen))


def hash_files(files: Sequence[Path], known: Mapping[Path, str] | None = None) -> str:
    """Hash names and bytes of files; ``known`` are SHA-256 that need not be computed again.

    Raises:
        CorpusError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(f"{path.name}\0{(known or {}).get(path) or sha256(path)}\0".encode())
        except OSError as error:
            raise CorpusError(f"cannot be read: {error.strerror}", where=path) from error
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """Hash a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
