"""Named corpora: what the catalogue says, fetched on first use."""

import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.corpus.download import exclusive_lock, fetch_checked
from firstlight.corpus.raw_source import RawSource, ReadFunction, file_source, hash_files, read_files
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files import Limits, cache_dir
from firstlight.files.compression import open_compressed
from firstlight.files.zips import open_zip
from firstlight.types import Document


def load_catalogue() -> dict[str, Any]:
    """Return the named corpora that are fetched on first use."""
    return tomllib.loads((resources.files("firstlight.corpus") / "catalogue.toml").read_text(encoding="utf-8"))


def named_source(name: str, entry: dict[str, Any], settings: CorpusSettings) -> RawSource:
    """Fetch what the cache lacks of a catalogue entry, and return it as a source.

    Raises:
        CorpusError: a download that failed or does not have the expected SHA-256, or a broken archive.
    """
    files: list[Path] = []
    digests: dict[Path, str] = {}
    for item in entry["files"]:
        target = cache_dir() / item["name"]
        digest = fetch_checked(item["url"], target, item.get("sha256"), max_bytes=settings.max_download_bytes)
        if "member" in item:
            target = _member(target, item["member"], settings.read_limits)
        else:
            digests[target] = digest
        files.append(target)
    raw = file_source(name, files)
    read = _separated(files, entry["split"]) if "split" in entry else raw.read
    return RawSource(name, read, raw.n_bytes, lambda: hash_files(files, digests))


def _member(archive: Path, member: str, limits: Limits) -> Path:
    """Unpack one file of an archive into the same folder, unless the unpacked file is newer than the archive."""
    target = archive.with_name(f"{archive.stem}-{Path(member).name}.txt")
    if _is_newer(target, archive):
        return target
    with exclusive_lock(archive):
        if _is_newer(target, archive):
            return target
        part = target.with_name(f"{target.name}.part")
        try:
            with open_zip(archive, limits=limits) as zipped, part.open("wb") as out:
                zipped.extract(member, out)
        except CorpusError as error:
            part.unlink(missing_ok=True)
            raise CorpusError(
                f"is not an archive with a file {member!r}: {error.problem}",
                where=archive,
                found=error.found,
                fix=error.fix or "Delete it and run again.",
            ) from error
        part.replace(target)
    return target


def _is_newer(target: Path, archive: Path) -> bool:
    return target.is_file() and target.stat().st_mtime_ns >= archive.stat().st_mtime_ns


def _separated(files: list[Path], separator: str) -> ReadFunction:
    """Read text files whose documents are separated by separator lines."""

    def read(settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        limits = settings.read_limits

        def read_one(path: Path) -> Iterator[Document]:
            with open_compressed(path, limits=limits) as file:
                stream = decode_chunks(file, str(path), settings, tally)
                for number, text in enumerate(split_stream(stream, separator, where=path, limits=limits), start=1):
                    # A file ends with a separator and a line end, and that line end is not a document.
                    if inner := text.strip("\n"):
                        yield Document(inner, f"{path}: document {number}")

        yield from read_files(files, read_one, settings, tally)

    return read
