"""A source before cleaning: how to read it, how big it is, and what identifies its bytes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight import progress
from firstlight.corpus.readers import READERS, read_text
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files import sha256
from firstlight.files.compression import estimate_size, inner_suffix
from firstlight.types import Document

Read = Callable[[CorpusSettings, Tally], Iterator[Document]]


@dataclass(frozen=True, slots=True)
class Raw:
    """A source before cleaning.

    Attributes:
        name: as the user gave it.
        read: yields its documents, as often as called.
        n_bytes: size unpacked, an estimate for compressed files; 0 where it is not known.
        identity: returns a hash of what will be read.
    """

    name: str
    read: Read
    n_bytes: int
    identity: Callable[[], str]


def of_files(name: str, files: Sequence[Path]) -> Raw:
    """Return a source of files, each read by its suffix.

    Files of an unknown suffix are left out where there are others, and read as plain text where there are not.
    """
    known = [p for p in files if inner_suffix(p) in READERS]
    chosen = known or list(files)
    strange = ", ".join(sorted({inner_suffix(p) or "no suffix" for p in files if inner_suffix(p) not in READERS}))
    if not known:
        progress.notice(f"{name}: no reader for {strange}; read as plain text")
    elif len(known) < len(files):
        progress.notice(f"{name}: {len(files) - len(known)} of {len(files)} files left out, no reader for {strange}")

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        for path in chosen:
            yield from READERS.get(inner_suffix(path), read_text)(path, settings, tally)

    return Raw(name, read, estimate_size(chosen), lambda: files_identity(chosen))


def files_identity(files: Sequence[Path], known: Mapping[Path, str] | None = None) -> str:
    """Return a hash of names and bytes; ``known`` are SHA-256 that need not be computed again.

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


def text_identity(text: str) -> str:
    """Return a hash of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
