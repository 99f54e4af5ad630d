"""Readers of text formats, one file per family of formats: a path becomes Documents.

``READERS`` maps each suffix to its reader. To add a format, write a class with the members of ``Reader`` and add it
to ``_BUILTIN``; one from another package is named in the setting ``corpus.readers``, as ``package.module:Name``.
"""

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from firstlight.config import load_object
from firstlight.corpus.readers.markup import HtmlReader
from firstlight.corpus.readers.records import JsonLinesReader, JsonReader, ParquetReader
from firstlight.corpus.readers.tables import CsvReader, TsvReader
from firstlight.corpus.readers.text import TextReader, text_documents
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.tally import Tally
from firstlight.errors import ConfigError, CorpusError, FirstlightError
from firstlight.types import Document


class Reader(Protocol):
    """Reads one format; a reader class has a constructor without arguments."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of its files, in lower case, such as (".srt",); without a compression suffix, which may follow."""
        ...

    @property
    def extra(self) -> str | None:
        """The optional dependency group of Firstlight that it needs, such as "parquet", or None."""
        ...

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the documents of a file, the same ones each time, in constant memory.

        Args:
            path: the file; ``files.compression.open_compressed`` opens it decompressed, within the limits.
            settings: how to read it, and the limits (``read_limits``); ``decode_chunks`` and ``split_stream`` in
                ``corpus.decode`` apply them to text.
            tally: counts the records that the reader drops, and bytes that are not UTF-8.

        Raises:
            CorpusError: the file cannot be read; names the file and line.
        """
        ...


_BUILTIN: tuple[Reader, ...] = (
    TextReader(),
    JsonLinesReader(),
    JsonReader(),
    CsvReader(),
    TsvReader(),
    ParquetReader(),
    HtmlReader(),
)
READERS: dict[str, Reader] = {suffix: reader for reader in _BUILTIN for suffix in reader.suffixes}


def load_readers(references: Sequence[str]) -> Mapping[str, Reader]:
    """Return the readers by suffix: the built-in ones, replaced or joined by those of other packages.

    Args:
        references: ``package.module:Name`` of a reader, or of a reader class.

    Raises:
        ConfigError: one cannot be loaded, or is not a reader.
    """
    if not references:
        return READERS
    readers = dict(READERS)
    for reference in references:
        reader = _ExternalReader(reference)
        readers |= dict.fromkeys(reader.suffixes, reader)
    return readers


def hash_readers(references: Sequence[str]) -> dict[str, str]:
    """Hash the source files of readers from other packages, since a changed reader makes other documents."""
    return {reference: _ExternalReader(reference).source_hash() for reference in references}


class _ExternalReader:
    """A reader from another package; its exceptions become CorpusErrors, and what it yields is checked."""

    def __init__(self, reference: str) -> None:
        key = "corpus.readers"
        found = load_object(reference, {}, kind="reader", interface=Reader, where=key)
        try:
            self._reader: Reader = found() if isinstance(found, type) else found
        except Exception as error:  # noqa: BLE001 - the code of another package may raise anything
            raise ConfigError(f"{reference} cannot be constructed: {error}", where=key) from error
        self._reference = reference
        self.suffixes, self.extra = self._reader.suffixes, self._reader.extra
        valid = isinstance(self.suffixes, tuple) and all(
            isinstance(suffix, str) and suffix.startswith(".") and suffix == suffix.lower() for suffix in self.suffixes
        )
        if not valid or not self.suffixes:
            raise ConfigError(
                f"{reference} declares invalid suffixes",
                where=key,
                found=repr(self.suffixes),
                expected="a tuple of suffixes in lower case, such as ('.srt',)",
            )

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the reader's documents."""
        try:
            for document in self._reader.read(path, settings, tally):
                if not isinstance(document, Document) or not isinstance(document.content, str):
                    raise CorpusError(
                        f"{self._reference} yielded something other than a Document of text",
                        where=path,
                        found=type(document).__name__,
                    )
                yield document
        except (FirstlightError, GeneratorExit):
            raise
        except Exception as error:  # the code of another package may raise anything
            raise CorpusError(f"{self._reference} failed: {type(error).__name__}: {error}", where=path) from error

    def source_hash(self) -> str:
        """Return the SHA-256 of the file that defines the reader."""
        file = inspect.getsourcefile(type(self._reader))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


__all__ = ["READERS", "Reader", "hash_readers", "load_readers", "text_documents"]
