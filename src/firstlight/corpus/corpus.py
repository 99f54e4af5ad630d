"""A corpus: sources of documents that are filtered, counted and can be read repeatedly.

A long document arrives in pieces and leaves in pieces. To filter it, no more of it is held than ``min_characters``;
with ``dedup`` it goes through a temporary file, since only its end tells whether it was seen before. Deduplication
holds 16 bytes per document.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from firstlight import progress
from firstlight.corpus.pooling import pool_sources
from firstlight.corpus.raw_source import RawSource
from firstlight.corpus.readers import hash_readers, load_readers
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.sources import resolve_source
from firstlight.corpus.spool import SpooledDocument
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files.compression import estimate_size
from firstlight.files.encodings import display_name
from firstlight.types import Document, Paths, as_list

_MAX_NAMED = 3  # bad documents in a warning


class Source:
    """The documents of one name on the command line, or of all files that are named.

    Attributes:
        raw: what it reads.
        name: as the user gave it.
        n_bytes: approximate size of its text in UTF-8; 0 if unknown.
        tally: what was kept and dropped when it was last read.
    """

    def __init__(self, raw: RawSource, settings: CorpusSettings, *, may_be_empty: bool = False) -> None:
        self.raw, self._settings, self._may_be_empty = raw, settings, may_be_empty
        self._held_out: Mapping[bytes, str] = {}
        self._fingerprint: str | None = None
        self._has_warned = False
        self.name = raw.name
        self.n_bytes = raw.n_bytes if settings.max_bytes is None else min(raw.n_bytes, settings.max_bytes)
        self.tally = Tally()

    def head(self, n_bytes: int) -> "Source":
        """Return the same source, limited to its first ``n_bytes`` of text."""
        limit = min(n_bytes, self._settings.max_bytes or n_bytes)
        source = Source(self.raw, self._settings.model_copy(update={"max_bytes": limit}))
        source.hold_out(self._held_out)
        return source

    def heads(self, n_bytes: int) -> "list[Source]":
        """Return sources of the start of each file, in proportion to its size, together ``n_bytes`` of text."""
        files, of_files = self.raw.files, self.raw.of_files
        if len(files) < 2 or of_files is None or self._settings.max_bytes is not None:
            return [self.head(n_bytes)]
        sizes = [estimate_size([file]) for file in files]
        found = []
        for file, size in zip(files, sizes, strict=True):
            limit = int(n_bytes * size / max(sum(sizes), 1)) + 1
            settings = self._settings.model_copy(update={"max_bytes": limit})
            found.append(Source(of_files(self.name, (file,), {}), settings, may_be_empty=True))
            found[-1].hold_out(self._held_out)
        return found

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why files in a folder were skipped -> how many."""
        return self.raw.skipped

    def hold_out(self, digests: Mapping[bytes, str]) -> None:
        """Refuse documents that are in the validation text, or drop them with ``dedup``.

        Args:
            digests: of the documents of the validation text, with their origins; see ``digests_of``.
        """
        self._held_out = digests

    def fingerprint(self) -> str:
        """Return a SHA-256 over the bytes and the settings of reading; computed once."""
        if self._fingerprint is None:
            # What decides only whether a reading succeeds does not change its documents.
            exclude = {"readers", "follow_symlinks", "skip", "valid", "max_download_bytes"}
            if self._settings.on_bad_document == "error":
                exclude |= {"on_bad_document", "limits"}
            # Unset, they do not change the fingerprints of stores from before they existed.
            exclude |= {name for name in ("delimiter", "quotes") if getattr(self._settings, name) is None}
            settings = self._settings.model_dump(mode="json", exclude=exclude)
            if settings["encoding"] == "utf-8":  # as before there was this setting
                del settings["encoding"]
            if self._settings.readers:
                settings["readers"] = hash_readers(self._settings.readers)
            table = {"bytes": self.raw.content_hash(), "settings": settings}
            self._fingerprint = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
        return self._fingerprint

    def documents(self) -> Iterator[Document]:
        """Yield the documents that pass the filter; the same ones each time.

        Raises:
            CorpusError: a file or record cannot be read, or no document is kept.
        """
        self.tally = tally = Tally()
        document_filter = _DocumentFilter(self._settings, self._held_out)
        stream = self.raw.read(self._settings, tally)
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
        if tally.documents == 0 and not self._may_be_empty:
            dropped = ", ".join(f"{n} {reason}" for reason, n in tally.dropped.items())
            raise CorpusError("holds no text", where=self.name, found=dropped or "no document")
        if tally.n_bad and not has_warned:
            action = "replaced" if self._settings.on_bad_bytes == "replace" else "skipped"
            locations = ", ".join(tally.bad_bytes[:3]) + (", …" if len(tally.bad_bytes) > 3 else "")
            encoding = display_name(self._settings.encoding)
            progress.warn(f"{self.name}: {tally.n_bad:,} bytes are not {encoding} and were {action}, at {locations}")


class _DocumentFilter:
    """Filters documents by length and content; returns the reason to drop one ("" to keep it), and its pieces.

    Args:
        settings: of filtering.
        held_out: digests of the documents of the validation text, with their origins.
    """

    def __init__(self, settings: CorpusSettings, held_out: Mapping[bytes, str]) -> None:
        self._min_characters, self._held_out = settings.min_characters, held_out
        self._seen: set[bytes] | None = set() if settings.dedup == "exact" else None

    def check(self, document: Document) -> tuple[str, Iterable[Document]]:
        """Filter a document that is in one piece.

        Raises:
            CorpusError: it is in the validation text too.
        """
        text = document.content
        if len(text) == 0:
            return "empty", ()
        if isinstance(text, str):
            if text.isspace():
                return "empty", ()
            if len(text) < self._min_characters:
                return self._too_short(), ()
        reason = self._check_digest(_digest(document), document.source) if self._is_hashing else ""
        return reason, () if reason else (document,)

    def check_pieces(self, first: Document, rest: Iterator[Document]) -> tuple[str, Iterable[Document]]:
        """Filter a document in several pieces; all of ``rest`` is consumed to drop it.

        Raises:
            CorpusError: it is in the validation text too; also while its pieces are read.
        """
        held = [first]
        if isinstance(first.content, str):
            characters, is_blank = len(first.content), _is_blank(first.content)
            while (is_blank or characters < self._min_characters) and held[-1].continues:
                held.append(next(rest))
                characters += len(held[-1].content)
                is_blank = is_blank and _is_blank(str(held[-1].content))
            if is_blank:
                return "empty", ()
            if characters < self._min_characters:
                return self._too_short(), ()
        pieces = chain(held, rest)
        if self._seen is not None:
            return self._check_spooled(pieces)
        return "", self._checked(pieces) if self._is_hashing else pieces

    @property
    def _is_hashing(self) -> bool:
        return self._seen is not None or bool(self._held_out)

    def _check_spooled(self, pieces: Iterator[Document]) -> tuple[str, Iterable[Document]]:
        """Check a long document before any of it is passed on."""
        spool, digest, source = SpooledDocument(), hashlib.blake2b(digest_size=16), ""
        for piece in pieces:
            digest.update(spool.append(piece))
            source = piece.source
        reason = self._check_digest(digest.digest(), source)
        if reason:
            spool.close()
            return reason, ()
        return "", spool.pieces()

    def _checked(self, pieces: Iterator[Document]) -> Iterator[Document]:
        """Pass on the pieces of a long document, and check it at its end."""
        digest = hashlib.blake2b(digest_size=16)
        for piece in pieces:
            digest.update(_bytes(piece))
            if not piece.continues:
                self._check_digest(digest.digest(), piece.source)
            yield piece

    def _check_digest(self, key: bytes, source: str) -> str:
        """Return the reason to drop a document with this digest, or ""."""
        if key in self._held_out:
            if self._seen is not None:
                return "in the validation text too"
            raise CorpusError(
                "is in the training and in the validation text",
                where=source,
                found=f"{self._held_out[key]} holds the same document",
                fix="Remove it from one of them, or set corpus.dedup=exact, which drops it from training.",
            )
        if self._seen is None:
            return ""
        if key in self._seen:
            return "seen before"
        self._seen.add(key)
        return ""

    def _too_short(self) -> str:
        return f"shorter than {self._min_characters} characters"


def digests_of(sources: Iterable[Source]) -> dict[bytes, str]:
    """Read all documents of sources; return the digest of each with its origin, for ``Source.hold_out``."""
    found: dict[bytes, str] = {}
    for source in sources:
        digest = hashlib.blake2b(digest_size=16)
        for piece in source.documents():
            digest.update(_bytes(piece))
            if not piece.continues:
                found.setdefault(digest.digest(), piece.source)
                digest = hashlib.blake2b(digest_size=16)
    return found


def _digest(document: Document) -> bytes:
    return hashlib.blake2b(_bytes(document), digest_size=16).digest()


def _bytes(document: Document) -> bytes:
    content = document.content
    return content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content.tobytes()


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


def open_corpus(names: Paths, settings: CorpusSettings | None = None, *, separate: bool = False) -> Corpus:
    """Resolve the names to sources, downloading named corpora that are not in the cache; no document is read yet.

    Args:
        names: files, folders, globs, named corpora.
        settings: how they are read.
        separate: a source for each name, in order; otherwise the files of all names are one source, in an order that
            does not depend on how they are named.

    Raises:
        UsageError: a name cannot be resolved.
        ConfigError: a reader in ``settings.readers`` cannot be used.
        CorpusError: a folder without text, or a download that failed.
    """
    settings = settings or CorpusSettings()
    readers = load_readers(settings.readers)
    found = [resolve_source(name, settings, readers) for name in as_list(names)]
    return Corpus([Source(raw, settings) for raw in (found if separate else pool_sources(found))])
