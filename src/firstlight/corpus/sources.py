"""Resolve a name on the command line to a source: files, a named corpus, standard input, a dataset of the hub."""

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from firstlight.corpus.detect_kind import expand_user, list_files
from firstlight.corpus.embedded import python_code, python_docs
from firstlight.corpus.hub import PREFIX, hub_source
from firstlight.corpus.named import load_catalogue, named_source
from firstlight.corpus.raw_source import RawSource, file_source
from firstlight.corpus.readers import READERS, Reader, text_documents
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, UsageError, nearest
from firstlight.files import sha256, storage_errors
from firstlight.files.compression import inner_suffix, open_compressed
from firstlight.types import Document

_EMBEDDED: dict[str, Callable[[], RawSource]] = {"python-code": python_code, "python-docs": python_docs}
_MAX_NEIGHBOURS = 2000  # of a misspelled path that are looked at


def corpus_names() -> list[str]:
    """Return the names of all corpora that need no file."""
    return sorted([*_EMBEDDED, *load_catalogue()])


def resolve_source(name: str, readers: Mapping[str, Reader] = READERS) -> RawSource:
    """Find the source that ``name`` stands for; a path that exists wins over a corpus of that name.

    Args:
        name: a file, folder, glob, named corpus, ``-`` (standard input) or ``hf:NAME``.
        readers: by suffix.

    Raises:
        UsageError: it stands for nothing; suggests the nearest file or corpus.
        CorpusError: a folder without text, or a download that failed.
    """
    if name == "-":
        return _spool(name, "standard input", sys.stdin.buffer)
    path = expand_user(name)
    kind = _path_kind(path)
    if kind == "pipe":
        with storage_errors(path), path.open("rb") as stream:
            return _spool(name, name, stream)
    if kind == "file":
        return file_source(name, [path], readers)
    if kind == "folder":
        return _folder_source(name, path, readers)
    if name in _EMBEDDED:
        return _EMBEDDED[name]()
    if name.startswith(PREFIX):
        return hub_source(name)
    catalogue = load_catalogue()
    if name in catalogue:
        return named_source(name, catalogue[name])
    if any(c in name for c in "*?["):
        files = list_files(name)
        if not files:
            raise UsageError("matches no file", where=name)
        return file_source(name, files, readers)
    raise UsageError(
        "no such file, folder or corpus",
        where=name if len(name) <= 200 else f"{name[:200]}…",
        fix=_suggestion(name, path),
    )


def _path_kind(path: Path) -> str:
    try:
        if path.is_fifo() or path.is_char_device():
            return "pipe"  # such as bash's <(command)
        return "file" if path.is_file() else "folder" if path.is_dir() else ""
    except OSError:  # such as a name that is too long for any file
        return ""


def _suggestion(name: str, path: Path) -> str:
    try:
        neighbours = [str(p) for p in islice(path.parent.iterdir(), _MAX_NEIGHBOURS)]
    except OSError:
        neighbours = []
    near = nearest(name[:200], [*neighbours, *corpus_names()])
    return f"Did you mean {near}?" if near else f"Named corpora: {', '.join(corpus_names())}, hf:NAME."


def _folder_source(name: str, folder: Path, readers: Mapping[str, Reader]) -> RawSource:
    files = list_files(name)
    if not any(inner_suffix(p) in readers for p in files):
        others = ", ".join(sorted({p.suffix or "no suffix" for p in files})[:6])
        raise CorpusError(
            "holds no file that can be read as text",
            where=folder,
            found=others or "nothing",
            expected=", ".join(sorted(readers)[:12]) + " …",
        )
    return file_source(name, files, readers)


def _spool(name: str, shown: str, stream: BinaryIO) -> RawSource:
    """Copy a stream to a temporary file, since it is read more than once; the file is removed with the source."""
    with storage_errors(Path(tempfile.gettempdir())):
        handle, temporary = tempfile.mkstemp(prefix="firstlight-stdin-", suffix=".txt")
        path = Path(temporary)
        try:
            with os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        with open_compressed(path) as file:
            yield from text_documents(file, shown, settings, tally)

    weakref.finalize(read, path.unlink, missing_ok=True)
    return RawSource(name, read, path.stat().st_size, lambda: sha256(path))
