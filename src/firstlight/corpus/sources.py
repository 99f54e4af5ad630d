"""What a name on the command line stands for: files, a named corpus, standard input, a data set of the hub."""

import glob
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from firstlight.corpus.raw_source import Raw, of_files
from firstlight.corpus.readers import READERS, text_documents
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, UsageError, nearest
from firstlight.files import sha256, storage_errors
from firstlight.files.compression import inner_suffix, open_compressed
from firstlight.types import Document

_EMBEDDED = {"python-code": "python_code", "python-docs": "python_docs"}
_NEIGHBOURS = 2000


def corpus_names() -> list[str]:
    """Return every corpus name."""
    from firstlight.corpus.named import catalogue

    return sorted([*_EMBEDDED, *catalogue()])


def find(name: str) -> Raw:
    """Return what ``name`` stands for; a path that exists wins over a corpus of that name.

    Raises:
        UsageError: it stands for nothing; names the nearest file or corpus.
        CorpusError: a folder without text, or a download that failed.
    """
    if name == "-":
        return _spooled(name, "standard input", sys.stdin.buffer)
    path = _expanded(name)
    kind = _kind(path)
    if kind == "pipe":
        with storage_errors(path), path.open("rb") as stream:
            return _spooled(name, name, stream)
    if kind == "file":
        return of_files(name, [path])
    if kind == "folder":
        return _folder(name, path)
    if name in _EMBEDDED:
        from firstlight.corpus import embedded

        made: Raw = getattr(embedded, _EMBEDDED[name])()
        return made
    if name.startswith("hf:"):
        from firstlight.corpus.hub import hub  # loaded where it is asked for, as few runs do

        return hub(name)
    from firstlight.corpus.named import catalogue, named

    if name in catalogue():
        return named(name, catalogue()[name])
    if any(c in name for c in "*?["):
        # Path.glob knows no absolute patterns.
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())  # noqa: PTH207
        if not found:
            raise UsageError("matches no file", where=name)
        return of_files(name, found)
    raise UsageError(
        "no such file, folder or corpus", where=name if len(name) <= 200 else f"{name[:200]}…", fix=_guess(name, path)
    )


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~ of nobody
        return Path(name)


def _kind(path: Path) -> str:
    try:
        if path.is_fifo() or path.is_char_device():
            return "pipe"  # such as bash's <(command)
        return "file" if path.is_file() else "folder" if path.is_dir() else ""
    except OSError:  # such as a name that is too long for any file
        return ""


def _guess(name: str, path: Path) -> str:
    try:
        beside = [str(p) for p in islice(path.parent.iterdir(), _NEIGHBOURS)]
    except OSError:
        beside = []
    near = nearest(name[:200], [*beside, *corpus_names()])
    return f"Did you mean {near}?" if near else f"Named corpora: {', '.join(corpus_names())}, hf:NAME."


def _folder(name: str, folder: Path) -> Raw:
    files = [
        p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]
    if not any(inner_suffix(p) in READERS for p in files):
        others = ", ".join(sorted({p.suffix or "no suffix" for p in files})[:6])
        raise CorpusError(
            "holds no file that can be read as text",
            where=folder,
            found=others or "nothing",
            expected=", ".join(sorted(READERS)[:12]) + " …",
        )
    return of_files(name, files)


def _spooled(name: str, shown: str, stream: BinaryIO) -> Raw:
    """Keep what comes in a temporary file, since it is read more than once, and remove it with the source."""
    with storage_errors(Path(tempfile.gettempdir())):
        handle, spool = tempfile.mkstemp(prefix="firstlight-stdin-", suffix=".txt")
        path = Path(spool)
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
    return Raw(name, read, path.stat().st_size, lambda: sha256(path))
