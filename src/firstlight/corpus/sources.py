"""Resolve a name on the command line to a source: files, a named corpus, standard input, a dataset of the hub."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from firstlight.corpus.artifacts import check_not_artifact
from firstlight.corpus.detect_kind import ARRAY_SUFFIXES, SKIP_SETTING, expand_user, list_files
from firstlight.corpus.embedded import python_code, python_docs
from firstlight.corpus.hub import PREFIX, hub_source
from firstlight.corpus.named import load_catalogue, named_source
from firstlight.corpus.raw_source import RawSource, file_source
from firstlight.corpus.readers import READERS, Reader, load_readers, text_documents
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.spool import SpooledStream
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, UsageError, nearest
from firstlight.files import storage_errors
from firstlight.files.compression import inner_suffix
from firstlight.types import Document

_EMBEDDED: dict[str, Callable[[], RawSource]] = {"python-code": python_code, "python-docs": python_docs}
_PLAIN = ".txt"
_RECORDS = {READERS[suffix] for suffix in (".jsonl", ".json", ".parquet", ".csv", ".tsv")}
_TABLES = {READERS[suffix] for suffix in (".csv", ".tsv")}
# Settings that not every reader of text obeys: what it reads, and the readers that do.
_OBEYED_BY: dict[str, tuple[str, set[Reader]]] = {
    "text_field": ("records (.jsonl, .json, .csv, .tsv, .parquet)", _RECORDS),
    "delimiter": ("tables (.csv, .tsv)", _TABLES),
    "quotes": ("tables (.csv, .tsv)", _TABLES),
    "text_split": ("plain text", {READERS[_PLAIN]}),
    "encoding": ("files of text", set(READERS.values()) - {READERS[".parquet"]}),
}
_MAX_NEIGHBOURS = 2000  # of a misspelled path that are looked at


def corpus_names() -> list[str]:
    """Return the names of all corpora that need no file."""
    return sorted([*_EMBEDDED, *load_catalogue()])


def resolve_source(
    name: str, settings: CorpusSettings | None = None, readers: Mapping[str, Reader] = READERS
) -> RawSource:
    """Find the source that ``name`` stands for; a path that exists wins over a corpus of that name.

    Args:
        name: a file, folder, glob, named corpus, ``-`` (standard input) or ``hf:NAME``.
        settings: which links are followed, and how much is downloaded.
        readers: by suffix.

    Raises:
        UsageError: it stands for nothing; suggests the nearest file or corpus.
        CorpusError: a folder without text, a device, or a download that failed.
    """
    settings = settings or CorpusSettings()
    if name == "-":
        return _spool(name, "standard input", sys.stdin.buffer)
    path = expand_user(name)
    kind = _path_kind(path)
    if kind == "pipe":
        with storage_errors(path), path.open("rb") as stream:
            return _spool(name, name, stream)
    if kind == "device":
        raise CorpusError("is a device, not a file", where=name, fix="Use - to read standard input.")
    if kind in ("file", "folder"):
        check_not_artifact(path)
    if kind == "file":
        return file_source(name, [path], readers)
    if kind == "folder":
        return _folder_source(name, path, settings, readers)
    if name in _EMBEDDED:
        return _EMBEDDED[name]()
    if name.startswith(PREFIX):
        return hub_source(name)
    catalogue = load_catalogue()
    if name in catalogue:
        return named_source(name, catalogue[name], settings)
    if any(c in name for c in "*?["):
        found = list_files(name, settings=settings)
        if not found.files:
            raise UsageError("matches no file", where=name, found=found.describe_skipped(SKIP_SETTING))
        return file_source(name, found.files, readers, skipped=found.skipped)
    raise UsageError(
        "no such file, folder or corpus",
        where=name if len(name) <= 200 else f"{name[:200]}…",
        fix=_suggestion(name, path),
    )


def unused_by_readers(names: Sequence[str], settings: CorpusSettings) -> dict[str, str]:
    """Return the settings of ``[corpus]`` with another value than the default that no reader of these files obeys.

    Each with the reason, as ``Settings.unused_settings``. Of named corpora and data sets of the hub nothing is said.
    """
    changed = [name for name in _OBEYED_BY if getattr(settings, name) != type(settings).model_fields[name].default]
    if not changed:
        return {}
    readers, suffixes = load_readers(settings.readers), set[str]()
    for name in names:
        files = list_files(name, settings=settings, notify=False).files
        found = {inner_suffix(path) for path in files}
        suffixes |= found & readers.keys() or ({_PLAIN} if files or name == "-" else set())
        if not files and name != "-":
            return {}
    shown = ", ".join("plain text" if suffix == _PLAIN else suffix for suffix in sorted(suffixes))
    if any(readers[suffix] is not READERS.get(suffix) for suffix in suffixes):
        return {}  # a reader of another package obeys what it likes
    return {
        f"corpus.{name}": f"applies to {_OBEYED_BY[name][0]}, but this corpus is {shown}"
        for name in changed
        if not any(READERS[suffix] in _OBEYED_BY[name][1] for suffix in suffixes)
    }


def are_arrays(names: Sequence[str], settings: CorpusSettings) -> bool:
    """Return whether all files of a corpus of ids are .npy files, which have their own type."""
    files = [path for name in names for path in list_files(name, settings=settings, notify=False).files]
    return all(inner_suffix(path) == ".npy" for path in files if inner_suffix(path) in ARRAY_SUFFIXES)


def same_files(names: Sequence[str], others: Sequence[str], settings: CorpusSettings) -> bool:
    """Return whether two lists of names stand for the same files and other sources, in whatever order."""
    return _files(names, settings) == _files(others, settings)


def _files(names: Sequence[str], settings: CorpusSettings) -> set[str]:
    readers, found = load_readers(settings.readers), set[str]()
    for name in names:
        files = list_files(name, settings=settings, notify=False).files
        known = [path for path in files if inner_suffix(path) in readers]
        found.update(str(path.resolve()) for path in known or files)
        if not files:
            found.add(str(expand_user(name).absolute()))
    return found


def _path_kind(path: Path) -> str:
    try:
        if path.is_fifo():
            return "pipe"  # such as bash's <(command)
        if path.is_char_device() or path.is_block_device() or path.is_socket():
            return "device"
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


def _folder_source(name: str, folder: Path, settings: CorpusSettings, readers: Mapping[str, Reader]) -> RawSource:
    listed = list_files(name, settings=settings)
    files = listed.files
    if not any(inner_suffix(p) in readers for p in files):
        others = ", ".join(sorted({p.suffix or "no suffix" for p in files})[:6])
        skipped = listed.describe_skipped(None)
        raise CorpusError(
            "holds no file that can be read as text",
            where=folder,
            found="; ".join(filter(None, (others, skipped))) or "nothing",
            expected=", ".join(sorted(readers)[:12]) + " …",
            fix=f"Set {SKIP_SETTING} to read what is skipped." if skipped else None,
        )
    return file_source(name, files, readers, skipped=listed.skipped)


def _spool(name: str, shown: str, stream: BinaryIO) -> RawSource:
    """Copy a stream to a temporary file, since it is read more than once; the file goes away with the source."""
    spool = SpooledStream(stream)

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        with spool.open() as file:
            yield from text_documents(file, shown, settings, tally)

    def identity() -> str:
        with spool.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return RawSource(name, read, spool.size, identity)
