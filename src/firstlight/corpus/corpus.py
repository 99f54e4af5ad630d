"""A corpus: sources of documents, cleaned, counted, readable again and again."""

import hashlib
import json
from collections.abc import Iterator, Sequence

from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.sources import Raw, find
from firstlight.corpus.tally import Tally
from firstlight.errors import CorpusError
from firstlight.types import Document


class Source:
    """One name of a corpus: its documents, as often as asked for.

    Attributes:
        tally: what the last reading kept and dropped.
    """

    def __init__(self, raw: Raw, settings: CorpusSettings) -> None:
        self._raw, self._settings = raw, settings
        self.name = raw.name
        self.n_bytes = raw.n_bytes if settings.max_bytes is None else min(raw.n_bytes, settings.max_bytes)
        self.tally = Tally()

    def fingerprint(self) -> str:
        """Return a SHA-256 over the bytes read and the settings that change what is made of them."""
        table = {"bytes": self._raw.identity(), "settings": self._settings.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        """Yield the documents that are kept; the same ones each time.

        Raises:
            CorpusError: a file or record cannot be read as the settings ask, or nothing is kept at all.
        """
        self.tally = tally = Tally()
        seen: set[bytes] = set()
        read = 0
        for pieces in _whole(self._raw.read(self._settings, tally)):
            tally.seen += 1
            reason = None
            for document in self._cleaned(pieces, seen):
                if isinstance(document, str):
                    reason = document
                    break
                tally.characters += len(document.content)
                read += len(document.content)
                yield document
            if reason is not None:
                tally.drop(reason)
            else:
                tally.documents += 1
            if self._settings.max_bytes is not None and read >= self._settings.max_bytes:
                break
        if tally.documents == 0:
            dropped = ", ".join(f"{n} {reason}" for reason, n in tally.dropped.items())
            raise CorpusError("holds no text", where=self.name, found=dropped or "no document")

    def _cleaned(self, pieces: Iterator[Document], seen: set[bytes]) -> Iterator[Document | str]:
        """Yield the pieces of one document, or a reason to drop it; only short ones and first pieces are held."""
        first = next(pieces)
        if not isinstance(first.content, str) or first.continues:
            # A long document: too long to be short, and by itself in its file.
            yield first
            yield from pieces
            return
        text = first.content
        if not text.strip():
            yield "empty"
        elif len(text) < self._settings.min_characters:
            yield f"shorter than {self._settings.min_characters} characters"
        elif self._settings.dedup == "exact" and _known(text, seen):
            yield "seen before"
        elif self._settings.max_bytes is not None and len(text) > self._settings.max_bytes:
            yield Document(text[: self._settings.max_bytes], first.source, first.meta)
        else:
            yield first


def _known(text: str, seen: set[bytes]) -> bool:
    key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    known = key in seen
    seen.add(key)
    return known


def _whole(stream: Iterator[Document]) -> Iterator[Iterator[Document]]:
    """Group a stream into documents, each an iterator over its pieces, which is used up before the next is asked for."""
    for first in stream:
        if not first.continues:
            yield iter((first,))
            continue
        rest = _rest(first, stream)
        yield rest
        for _ in rest:
            continue


def _rest(first: Document, stream: Iterator[Document]) -> Iterator[Document]:
    piece = first
    yield piece
    while piece.continues:
        piece = next(stream)
        yield piece


class Corpus:
    """Several sources in order."""

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources

    @property
    def tally(self) -> Tally:
        """The sources' tallies added up."""
        total = Tally()
        for source in self.sources:
            part = source.tally
            total.seen += part.seen
            total.documents += part.documents
            total.characters += part.characters
            total.n_bad += part.n_bad
            total.bad_bytes += part.bad_bytes
            for reason, n in part.dropped.items():
                total.dropped[reason] = total.dropped.get(reason, 0) + n
        return total

    def __iter__(self) -> Iterator[Document]:
        for source in self.sources:
            yield from source.documents()


def open_corpus(names: Sequence[str], settings: CorpusSettings | None = None) -> Corpus:
    """Find what each name stands for; nothing is read yet.

    Raises:
        UsageError: a name stands for nothing.
        CorpusError: a folder without text, or a download that failed.
    """
    settings = settings or CorpusSettings()
    return Corpus([Source(find(name), settings) for name in names])
