"""A corpus: sources of documents, cleaned, counted, readable again and again.

A long document arrives in pieces and leaves in pieces. To judge it, no more of it is held than
``min_characters`` ask for; with ``dedup`` it goes through a temporary file, since only its end
says whether it was seen before. Deduplication holds 16 bytes a document.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from firstlight import progress
from firstlight.corpus.raw_source import Raw
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.sources import find
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.files import storage_errors
from firstlight.types import Document

_SPOOL_BYTES = 8 << 20


class Source:
    """One name of a corpus: its documents, as often as asked for.

    Attributes:
        name: as the user gave it.
        n_bytes: about how much text it holds, in UTF-8 bytes; 0 where that is not known.
        tally: what the last reading kept and dropped.
    """

    def __init__(self, raw: Raw, settings: CorpusSettings) -> None:
        self._raw, self._settings = raw, settings
        self._fingerprint: str | None = None
        self._has_warned = False
        self.name = raw.name
        self.n_bytes = raw.n_bytes if settings.max_bytes is None else min(raw.n_bytes, settings.max_bytes)
        self.tally = Tally()

    def head(self, n_bytes: int) -> "Source":
        """Return the same source, ended after ``n_bytes`` of text."""
        most = min(n_bytes, self._settings.max_bytes or n_bytes)
        return Source(self._raw, self._settings.model_copy(update={"max_bytes": most}))

    def fingerprint(self) -> str:
        """Return a SHA-256 over the bytes read and the settings that change what is made of them; computed once."""
        if self._fingerprint is None:
            table = {"bytes": self._raw.identity(), "settings": self._settings.model_dump(mode="json")}
            self._fingerprint = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
        return self._fingerprint

    def documents(self) -> Iterator[Document]:
        """Yield the documents that are kept; the same ones each time.

        Raises:
            CorpusError: a file or record cannot be read as the settings ask, or nothing is kept at all.
        """
        self.tally = tally = Tally()
        judge = _Judge(self._settings)
        stream = self._raw.read(self._settings, tally)
        left = self._settings.max_bytes
        for first in stream:
            tally.seen += 1
            rest = _rest(stream) if first.continues else None
            reason, kept = judge.of_one(first) if rest is None else judge.of_many(first, rest)
            if reason:
                tally.drop(reason)
                continue
            begun = False
            for document in kept:
                if left is not None:
                    document, left = _cut(document, left)
                if begun or len(document.content):
                    begun = True
                    tally.characters += len(document.content)
                    yield document
                if left == 0:
                    break
            if begun:
                tally.documents += 1
            else:
                tally.drop("beyond corpus.max_bytes")
            if left == 0:
                break
        self._report(tally)

    def _report(self, tally: Tally) -> None:
        """Say once what was wrong with the bytes, however often they are read."""
        if tally.documents == 0:
            dropped = ", ".join(f"{n} {reason}" for reason, n in tally.dropped.items())
            raise CorpusError("holds no text", where=self.name, found=dropped or "no document")
        if tally.n_bad and not self._has_warned:
            self._has_warned = True
            done = "replaced" if self._settings.on_bad_bytes == "replace" else "left out"
            places = ", ".join(tally.bad_bytes[:3]) + (", …" if len(tally.bad_bytes) > 3 else "")
            progress.warn(f"{self.name}: {tally.n_bad} bytes are no UTF-8 and were {done}, at {places}")


class _Judge:
    """Says of one document after another why it is dropped, or "" and its pieces."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._least = settings.min_characters
        self._seen: set[bytes] | None = set() if settings.dedup == "exact" else None

    def of_one(self, document: Document) -> tuple[str, Iterable[Document]]:
        """Judge a document that came whole."""
        text = document.content
        if len(text) == 0:
            return "empty", ()
        if isinstance(text, str):
            if text.isspace():
                return "empty", ()
            if len(text) < self._least:
                return self._short(), ()
        if self._seen is not None:
            data = text.encode("utf-8") if isinstance(text, str) else text.tobytes()
            if self._is_known(hashlib.blake2b(data, digest_size=16)):
                return "seen before", ()
        return "", (document,)

    def of_many(self, first: Document, rest: Iterator[Document]) -> tuple[str, Iterable[Document]]:
        """Judge a document that comes in pieces; to drop one takes all of ``rest``."""
        if not isinstance(first.content, str):
            return "", chain([first], rest)
        held, characters, is_blank = [first], len(first.content), _is_blank(str(first.content))
        while (is_blank or characters < self._least) and held[-1].continues:
            held.append(next(rest))
            characters += len(held[-1].content)
            is_blank = is_blank and _is_blank(str(held[-1].content))
        if is_blank:
            return "empty", ()
        if characters < self._least:
            return self._short(), ()
        return ("", chain(held, rest)) if self._seen is None else self._unseen(chain(held, rest))

    def _unseen(self, pieces: Iterator[Document]) -> tuple[str, Iterable[Document]]:
        spool, digest = _Spool(), hashlib.blake2b(digest_size=16)
        for piece in pieces:
            data = str(piece.content).encode("utf-8")
            digest.update(data)
            spool.put(piece, data)
        if self._is_known(digest):
            spool.close()
            return "seen before", ()
        return "", spool.pieces()

    def _is_known(self, digest: "hashlib.blake2b") -> bool:
        key = digest.digest()
        assert self._seen is not None
        known = key in self._seen
        self._seen.add(key)
        return known

    def _short(self) -> str:
        return f"shorter than {self._least} characters"


class _Spool:
    """Keeps the pieces of one document, on disk where they are many."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, prefix="firstlight-")  # noqa: SIM115 - closed by pieces
        self._frames: list[tuple[Document, int]] = []

    def put(self, piece: Document, data: bytes) -> None:
        """Keep a piece, whose text is ``data`` in UTF-8."""
        with storage_errors(Path(tempfile.gettempdir())):
            self._file.write(data)
        self._frames.append((replace(piece, content=""), len(data)))

    def pieces(self) -> Iterator[Document]:
        """Give all pieces back, once."""
        self._file.seek(0)
        with self._file:
            for frame, size in self._frames:
                yield replace(frame, content=self._file.read(size).decode("utf-8"))

    def close(self) -> None:
        """Forget them."""
        self._file.close()


def _rest(stream: Iterator[Document]) -> Iterator[Document]:
    """Yield the pieces that follow a first one."""
    piece = next(stream)
    while piece.continues:
        yield piece
        piece = next(stream)
    yield piece


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _cut(document: Document, left: int) -> tuple[Document, int]:
    """Return a document no longer than ``left`` bytes of UTF-8, and what is left after it."""
    if not isinstance(document.content, str):
        left = max(0, left - document.content.nbytes)
        return replace(document, continues=document.continues and left > 0), left
    data = document.content.encode("utf-8")
    if len(data) < left:
        return document, left - len(data)
    return replace(document, content=data[:left].decode("utf-8", "ignore"), continues=False), 0


class Corpus:
    """Several sources in order."""

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources

    @property
    def tally(self) -> Tally:
        """The sources' tallies added up."""
        total = Tally()
        for source in self.sources:
            total.add(source.tally)
        return total

    def __iter__(self) -> Iterator[Document]:
        for source in self.sources:
            yield from source.documents()


def open_corpus(names: Sequence[str], settings: CorpusSettings | None = None) -> Corpus:
    """Find what each name stands for, and fetch what the cache lacks; nothing is read yet.

    Raises:
        UsageError: a name stands for nothing.
        CorpusError: a folder without text, or a download that failed.
    """
    settings = settings or CorpusSettings()
    return Corpus([Source(find(name), settings) for name in names])
