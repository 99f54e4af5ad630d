"""A corpus: sources of documents that are filtered, counted and can be read repeatedly.

A long document arrives in pieces and leaves in pieces. To filter it, no more of it is held than ``min_characters``;
with ``dedup`` it goes through a temporary file, since only its end tells whether it was seen before. Deduplication
holds 16 bytes per document.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from firstlight import progress
from firstlight.corpus.raw_source import RawSource
from firstlight.corpus.readers import hash_readers, load_readers
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.sources import resolve_source
from firstlight.corpus.spool import SpooledDocument
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files.encodings import display_name
from firstlight.types import Document, Paths, as_list

_MAX_NAMED = 3  # bad documents in a warning


class Source:
    """The documents of one name on the command line.

    Attributes:
        name: as the user gave it.
        n_bytes: approximate size of its text in UTF-8; 0 if unknown.
        tally: what was kept and dropped when it was last read.
    """

    def __init__(self, raw: RawSource, settings: CorpusSettings) -> None:
        self._raw, self._settings = raw, settings
        self._fingerprint: str | None = None
        self._has_warned = False
        self.name = raw.name
        self.n_bytes = raw.n_bytes if settings.max_bytes is None else min(raw.n_bytes, settings.max_bytes)
        self.tally = Tally()

    def head(self, n_bytes: int) -> "Source":
        """Return the same source, limited to its first ``n_bytes`` of text."""
        limit = min(n_bytes, self._settings.max_bytes or n_bytes)
        return Source(self._raw, self._settings.model_copy(update={"max_bytes": limit}))

    def fingerprint(self) -> str:
        """Return a SHA-256 over the bytes and the settings of reading; computed once."""
        if self._fingerprint is None:
            # What decides only whether a reading succeeds does not change its documents.
            exclude = {"readers", "follow_symlinks", "max_download_bytes"}
            if self._settings.on_bad_document == "error":
                exclude |= {"on_bad_document", "limits"}
            # Unset, they do not change the fingerprints of stores from before they existed.
            exclude |= {name for name in ("delimiter", "quotes") if getattr(self._settings, name) is None}
            settings = self._settings.model_dump(mode="json", exclude=exclude)
            if settings["encoding"] == "utf-8":  # as before there was this setting
                del settings["encoding"]
            if self._settings.readers:
                settings["readers"] = hash_readers(self._settings.readers)
            table = {"bytes": self._raw.content_hash(), "settings": settings}
            self._fingerprint = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
        return self._fingerprint

    def documents(self) -> Iterator[Document]:
        """Yield the documents that pass the filter; the same ones each time.

        Raises:
            CorpusError: a file or record cannot be read, or no document is kept.
        """
        self.tally = tally = Tally()
        document_filter = _DocumentFilter(self._settings)
        stream = self._raw.read(self._settings, tally)
        left = self._settings.max_bytes
        for first in stream:
            tally.seen += 1
            rest = _rest(stream) if first.continues else None
            reason, kept = document_filter.check(first) if rest is None else document_filter.check_pieces(first, rest)
            if reason:
                tally.drop(reason)
                continue
            started = False
            for document in kept:
                if left is not None:
                    document, left = _truncate(document, left)
                if started or len(document.content):
                    started = True
                    tally.characters += len(document.content)
                    yield document
                if left == 0:
                    break
            if started:
                tally.documents += 1
            else:
                tally.drop("beyond corpus.max_bytes")
            if left == 0:
                break
        self._report(tally)

    def _report(self, tally: Tally) -> None:
        """Warn about bad bytes and documents that were skipped, once, however often the source is read."""
        has_warned, self._has_warned = self._has_warned, True
        if tally.n_bad_documents and not has_warned:
            first = "; ".join(tally.bad_documents[:_MAX_NAMED])
            more = "; …" if tally.n_bad_documents > _MAX_NAMED else ""
            n = tally.n_bad_documents
            what = "1 document cannot be read and was" if n == 1 else f"{n:,} documents cannot be read and were"
            progress.warn(f"{self.name}: {what} skipped: {first}{more}")
        for what, files in tally.notes.items() if not has_warned else ():
            named = ", ".join(files[:_MAX_NAMED]) + (", …" if len(files) > _MAX_NAMED else "")
            progress.notice(f"{named}: {what}")
        if tally.documents == 0:
            dropped = ", ".join(f"{n} {reason}" for reason, n in tally.dropped.items())
            raise CorpusError("holds no text", where=self.name, found=dropped or "no document")
        if tally.n_bad and not has_warned:
            action = "replaced" if self._settings.on_bad_bytes == "replace" else "skipped"
            locations = ", ".join(tally.bad_bytes[:3]) + (", …" if len(tally.bad_bytes) > 3 else "")
            encoding = display_name(self._settings.encoding)
            progress.warn(f"{self.name}: {tally.n_bad:,} bytes are not {encoding} and were {action}, at {locations}")


class _DocumentFilter:
    """Filters documents by length and content; returns the reason to drop one ("" to keep it), and its pieces."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._min_characters = settings.min_characters
        self._seen: set[bytes] | None = set() if settings.dedup == "exact" else None

    def check(self, document: Document) -> tuple[str, Iterable[Document]]:
        """Filter a document that is in one piece."""
        text = document.content
        if len(text) == 0:
            return "empty", ()
        if isinstance(text, str):
            if text.isspace():
                return "empty", ()
            if len(text) < self._min_characters:
                return self._too_short(), ()
        if self._seen is not None:
            data = text.encode("utf-8") if isinstance(text, str) else text.tobytes()
            if self._seen_before(hashlib.blake2b(data, digest_size=16)):
                return "seen before", ()
        return "", (document,)

    def check_pieces(self, first: Document, rest: Iterator[Document]) -> tuple[str, Iterable[Document]]:
        """Filter a document in several pieces; all of ``rest`` is consumed to drop it."""
        if not isinstance(first.content, str):
            return "", chain([first], rest)
        held, characters, is_blank = [first], len(first.content), _is_blank(str(first.content))
        while (is_blank or characters < self._min_characters) and held[-1].continues:
            held.append(next(rest))
            characters += len(held[-1].content)
            is_blank = is_blank and _is_blank(str(held[-1].content))
        if is_blank:
            return "empty", ()
        if characters < self._min_characters:
            return self._too_short(), ()
        return ("", chain(held, rest)) if self._seen is None else self._check_duplicate(chain(held, rest))

    def _check_duplicate(self, pieces: Iterator[Document]) -> tuple[str, Iterable[Document]]:
        spool, digest = SpooledDocument(), hashlib.blake2b(digest_size=16)
        for piece in pieces:
            digest.update(spool.append(piece))
        if self._seen_before(digest):
            spool.close()
            return "seen before", ()
        return "", spool.pieces()

    def _seen_before(self, digest: "hashlib.blake2b") -> bool:
        key = digest.digest()
        assert self._seen is not None
        known = key in self._seen
        self._seen.add(key)
        return known

    def _too_short(self) -> str:
        return f"shorter than {self._min_characters} characters"


def _rest(stream: Iterator[Document]) -> Iterator[Document]:
    """Yield the pieces that follow a first one."""
    piece = next(stream)
    while piece.continues:
        yield piece
        piece = next(stream)
    yield piece


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _truncate(document: Document, left: int) -> tuple[Document, int]:
    """Truncate a document to ``left`` bytes of UTF-8; return it and the bytes that are left after it."""
    if not isinstance(document.content, str):
        left = max(0, left - document.content.nbytes)
        return replace(document, continues=document.continues and left > 0), left
    data = document.content.encode("utf-8")
    if len(data) < left:
        return document, left - len(data)
    return replace(document, content=data[:left].decode("utf-8", "ignore"), continues=False), 0


class Corpus:
    """Sources in order; iterating yields the documents of all of them."""

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources

    @property
    def tally(self) -> Tally:
        """Sum of the sources' tallies."""
        total = Tally()
        for source in self.sources:
            total.add(source.tally)
        return total

    def __iter__(self) -> Iterator[Document]:
        for source in self.sources:
            yield from source.documents()


def open_corpus(names: Paths, settings: CorpusSettings | None = None) -> Corpus:
    """Resolve the names to sources, downloading named corpora that are not in the cache; no document is read yet.

    Raises:
        UsageError: a name cannot be resolved.
        ConfigError: a reader in ``settings.readers`` cannot be used.
        CorpusError: a folder without text, or a download that failed.
    """
    settings = settings or CorpusSettings()
    readers = load_readers(settings.readers)
    found = [resolve_source(name, settings, readers) for name in as_list(names)]
    _warn_of_files_read_twice(found)
    return Corpus([Source(raw, settings) for raw in found])


def _warn_of_files_read_twice(sources: Sequence[RawSource]) -> None:
    """Warn where several names stand for one file, by whatever path, so that its text counts more than once."""
    first: dict[tuple[int, int], str] = {}
    twice: list[str] = []
    for source in sources if len(sources) > 1 else ():
        for file in source.files:
            status = file.stat()
            before = first.setdefault((status.st_dev, status.st_ino), source.name)
            if before is not source.name:
                twice.append(f"{file} ({before}, {source.name})")
    if twice:
        n = "1 file is" if len(twice) == 1 else f"{len(twice):,} files are"
        shown = ", ".join(twice[:_MAX_NAMED]) + (", …" if len(twice) > _MAX_NAMED else "")
        progress.warn(f"{n} read twice, since two names of the corpus include it: {shown}")
