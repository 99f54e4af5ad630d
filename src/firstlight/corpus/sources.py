"""What a name on the command line stands for: files, a named corpus, standard input, a data set of the hub."""

import glob
import hashlib
import json
import shutil
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.corpus import embedded
from firstlight.corpus.download import cache_folder, fetch, text_hash
from firstlight.corpus.opening import bare_suffix, opened
from firstlight.corpus.readers import READERS, read_text
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError, FirstlightError, MissingExtra, UsageError, nearest
from firstlight.files import sha256
from firstlight.types import Document

Read = Callable[[CorpusSettings, Tally], Iterator[Document]]


@dataclass(frozen=True, slots=True)
class Raw:
    """A source before cleaning: how to read it, its size and what identifies its bytes."""

    name: str
    read: Read
    n_bytes: int
    identity: Callable[[], str]
    files: tuple[Path, ...] = field(default=())


def catalogue() -> dict[str, Any]:
    """Return the named corpora that are fetched on first use."""
    return tomllib.loads((resources.files("firstlight.corpus") / "catalogue.toml").read_text(encoding="utf-8"))


def names() -> list[str]:
    """Return every corpus name."""
    return sorted(["python-code", "python-docs", *catalogue()])


def find(name: str) -> Raw:
    """Return what ``name`` stands for; a path that exists wins over a corpus of that name.

    Raises:
        UsageError: it stands for nothing; names the nearest file or corpus.
    """
    path = Path(name).expanduser()
    if name == "-":
        return _standard_input()
    if path.is_file():
        return of_files(name, [path])
    if path.is_dir():
        return _folder(name, path)
    if any(c in name for c in "*?["):
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not found:
            raise UsageError("matches no file", where=name)
        return of_files(name, found)
    if name == "python-code":
        files = embedded.code_files()
        return Raw(name, embedded.python_code, sum(p.stat().st_size for p in files), lambda: _files_identity(files))
    if name == "python-docs":
        text = embedded.topics()
        return Raw(name, embedded.python_docs, sum(len(t) for t in text.values()), lambda: text_hash(json.dumps(text)))
    if name in catalogue():
        return _named(name, catalogue()[name])
    if name.startswith("hf:"):
        return _hub(name)
    beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(name, [*beside, *names()])
    raise UsageError(
        "no such file, folder or corpus", where=name,
        fix=f"Did you mean {near}?" if near else f"Named corpora: {', '.join(names())}, hf:NAME.",
    )  # fmt: skip


def of_files(name: str, files: list[Path]) -> Raw:
    """Return a source of files, each read by its suffix; a lone file of an unknown suffix is read as text."""
    readers = []
    for path in files:
        reader = READERS.get(bare_suffix(path))
        if reader is None:
            if len(files) > 1:
                continue
            progress.notice(f"{path}: suffix {path.suffix or 'none'} is unknown; read as plain text")
            reader = read_text
        readers.append((path, reader))

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        for path, reader in readers:
            yield from reader(path, settings, tally)

    paths = tuple(p for p, _ in readers)
    return Raw(name, read, sum(p.stat().st_size for p in paths), lambda: _files_identity(list(paths)), paths)


def _files_identity(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(f"{path.name}\0{sha256(path)}\0".encode())
        except OSError as error:
            raise CorpusError(f"cannot be read: {error.strerror}", where=path) from error
    return digest.hexdigest()


def _folder(name: str, folder: Path) -> Raw:
    files = [
        p for p in sorted(folder.rglob("*"))
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]  # fmt: skip
    known = [p for p in files if bare_suffix(p) in READERS]
    if not known:
        others = ", ".join(sorted({p.suffix or "no suffix" for p in files})[:6])
        raise CorpusError(
            "holds no file that can be read as text", where=folder, found=others or "nothing",
            expected=", ".join(sorted(READERS)[:12]) + " …",
        )  # fmt: skip
    return of_files(name, known)


def _standard_input() -> Raw:
    spool = tempfile.NamedTemporaryFile(prefix="firstlight-stdin-", suffix=".txt", delete=True)  # noqa: SIM115
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
    path = Path(spool.name)

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        _ = spool  # keeps the file alive as long as the source is
        for d in read_text(path, settings, tally):
            yield Document(d.content, "standard input", d.meta, d.continues)

    return Raw("-", read, path.stat().st_size, lambda: sha256(path))


def _named(name: str, entry: dict[str, Any]) -> Raw:
    files: list[Path] = []
    for item in entry["files"]:
        target = cache_folder() / item["name"]
        fetch(item["url"], target, item.get("sha256"))
        files.append(_member(target, item["member"]) if "member" in item else target)
    raw = of_files(name, files)
    separator = entry.get("split")
    return raw if separator is None else Raw(name, _separated(files, separator), raw.n_bytes, raw.identity, raw.files)


def _member(archive: Path, member: str) -> Path:
    target = archive.with_name(f"{archive.stem}-{Path(member).name}.txt")
    if not target.is_file():
        try:
            with zipfile.ZipFile(archive) as zipped, zipped.open(member) as file:
                part = target.with_suffix(".part")
                with part.open("wb") as out:
                    shutil.copyfileobj(file, out, 1 << 20)
                part.replace(target)
        except (zipfile.BadZipFile, KeyError) as error:
            raise CorpusError(f"is no readable archive: {error}", where=archive, fix="Delete it and run again.") from error
    return target


def _separated(files: list[Path], separator: str) -> Read:
    """Read text files whose documents stand between separator lines."""

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        from firstlight.corpus.decode import pieces

        for path in files:
            number, held = 0, ""
            with opened(path) as file:
                for piece in pieces(file, str(path), settings, tally):
                    *whole, held = (held + piece).split(separator)
                    for text in whole:
                        number += 1
                        yield Document(text.strip("\n"), f"{path}: document {number}")
            yield Document(held.strip("\n"), f"{path}: document {number + 1}")

    return read


def _hub(name: str) -> Raw:
    """Read ``hf:NAME[:config][@split]`` through datasets, as a stream."""
    body, _, split = name.removeprefix("hf:").partition("@")
    dataset, _, config = body.partition(":")

    def load() -> Any:
        try:
            import datasets
        except ImportError as error:
            raise MissingExtra("a data set of the hub", "hub") from error
        try:
            local = Path(dataset)
            if local.is_dir():
                return datasets.load_dataset(str(local), config or None, split=split or "train", streaming=True)
            return datasets.load_dataset(dataset, config or None, split=split or "train", streaming=True)
        except FirstlightError:
            raise
        except Exception as error:  # noqa: BLE001 - the library raises many kinds
            raise CorpusError(f"cannot be loaded: {error}", where=name, fix="Check the name and the connection.") from error

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        from firstlight.corpus.readers.records import text_of

        del tally
        for row, record in enumerate(load(), start=1):
            where = f"{name}: row {row}"
            yield Document(text_of(dict(record), settings.text_field, where), where)

    return Raw(name, read, 0, lambda: text_hash(name))
