"""Corpus to token store: read, encode, split, write; whole or not at all.

A reader thread runs ahead, the encoder uses all cores by itself, and ids go straight to disk, so
memory does not grow with the text.
"""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from firstlight import progress
from firstlight.errors import CompatibilityError, StoreError
from firstlight.files import MANIFEST, atomic_directory, remove_stale_files
from firstlight.store.settings import DataSettings
from firstlight.store.store import FORMAT, Split, TokenStore
from firstlight.store.writer import HASHED, Piece, Writer
from firstlight.types import Document, Encoder, IdVocabulary, Vocabulary

_BATCH_CHARACTERS = 4 << 20  # or ids, of documents that are ids already
# A text without any sure place to cut is held in memory up to here.
_MOST_HELD = 1 << 20


class SourceLike(Protocol):
    """What the store needs to know of a source; it never imports that room."""

    name: str
    n_bytes: int

    def documents(self) -> Iterator[Document]:
        """Yield its documents, the same ones each time."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of what its documents are made from."""
        ...


def fingerprint(
    sources: Sequence[SourceLike], encoder: Vocabulary, settings: DataSettings, seed: int
) -> dict[str, Any]:
    """Return what a store is made from; equal tables make equal stores."""
    return {
        "format": FORMAT,
        "tokenizer": encoder.hash,
        "sources": [s.fingerprint() for s in sources],
        "valid_ratio": settings.valid_ratio,
        "seed": seed,
    }


def prepare(
    directory: Path,
    sources: Sequence[SourceLike],
    encoder: Encoder | IdVocabulary,
    settings: DataSettings,
    *,
    seed: int,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> TokenStore:
    """Write a token store, or use the one that is there when it was made from the same inputs.

    Args:
        directory: the store's folder; it appears when it is finished.
        sources: texts, in order.
        encoder: the tokenizer; of sources whose documents are ids already, what ids there are.
        settings: how the text is split.
        seed: of the split by document.
        extra: further facts for the manifest.
        overwrite: replace a store that is there.

    Raises:
        CompatibilityError: ``directory`` holds a store made from something else; says what differs.
        StoreError: too little text for two splits.
        StorageError: the disk is full or read-only.
    """
    if settings.weights is not None and len(settings.weights) != len(sources):
        raise StoreError(
            "needs one weight a source", where="data.weights", found=len(settings.weights), expected=len(sources)
        )
    made_from = fingerprint(sources, encoder, settings, seed)
    if (directory / MANIFEST).is_file() and not overwrite:
        return _made_before(directory, made_from)
    if directory.parent.is_dir():
        remove_stale_files(directory.parent)
    with atomic_directory(directory) as folder, Writer(folder, encoder, settings, seed) as writer:
        tables = []
        with progress.task("encode", sum(s.n_bytes for s in sources) or None, "B") as task:
            for source in sources:
                writer.begin(source.name)
                with contextlib.closing(_ahead(_batches(source, encoder))) as batches:
                    for batch in batches:
                        task.advance(writer.write(batch))
                tables.append(writer.end())
        writer.finish({**(extra or {}), "made_from": made_from, "sources": tables})
    store = TokenStore.open(directory)
    progress.notice(f"{directory}: {_tokens(store.train)} for training, {_tokens(store.valid)} for validation")
    return store


def _tokens(split: Split) -> str:
    return f"{split.n_tokens:,} tokens ({split.n_documents:,} document{'s' * (split.n_documents != 1)})"


def _made_before(directory: Path, made_from: Mapping[str, Any]) -> TokenStore:
    store = TokenStore.open(directory)
    before = store.manifest.get("made_from", {})
    differs = [key for key, value in made_from.items() if before.get(key) != value]
    if differs:
        plain = {key: f"{key} {before.get(key)}" for key in ("format", "valid_ratio", "seed")}
        raise CompatibilityError(
            "holds a token store made from something else",
            where=directory,
            found=", ".join(plain.get(key, f"another {key.removesuffix('s')}") for key in differs),
            expected=", ".join(f"{key} {made_from[key]}" for key in differs if key in plain) or None,
            fix="Choose another --out, or delete it.",
        )
    progress.notice(f"{directory}: made before from the same inputs and settings; used again")
    return store


def _batches(source: SourceLike, encoder: Encoder | IdVocabulary) -> Iterator[list[Piece]]:
    """Group documents into batches of some megabytes."""
    batch: list[Piece] = []
    size = 0
    for piece in _texts(source, encoder) if isinstance(encoder, Encoder) else _ids(source):
        batch.append(piece)
        size += len(piece.content)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ids(source: SourceLike) -> Iterator[Piece]:
    begun = False
    for document in source.documents():
        content = document.content
        if isinstance(content, str):
            raise StoreError("a document is text, where ids were expected", where=document.source)
        yield Piece(content, document.source, None if begun else content[:HASHED].tobytes(), document.continues)
        begun = document.continues


def _texts(source: SourceLike, encoder: Encoder) -> Iterator[Piece]:
    """Cut a long text where ids stay those of the whole."""
    held, begun, told = "", False, False
    for document in source.documents():
        if not isinstance(document.content, str):
            raise StoreError("a document is no text", where=document.source)
        text, held = held + document.content, ""
        beginning = None if begun else text[:HASHED].encode("utf-8", "surrogatepass")
        if document.continues:
            at = encoder.split_point(text) if begun or len(text) >= HASHED else 0
            if at == 0 and len(text) >= _MOST_HELD:
                at = len(text)
                if not told:
                    progress.warn(
                        f"{document.source}: {at:,} characters without a place where this tokenizer can be sure to cut "
                        "(no white space?): cut anyway, so ids may differ there from those of the whole text"
                    )
                    told = True
            text, held = text[:at], text[at:]
            if not text:
                continue
        yield Piece(text, document.source, beginning, document.continues)
        begun = document.continues


def _ahead(batches: Iterator[list[Piece]]) -> Generator[list[Piece], None, None]:
    """Read in a thread of its own, up to two batches ahead."""
    line: queue.Queue[list[Piece] | BaseException | None] = queue.Queue(2)
    stop = threading.Event()

    def put(item: list[Piece] | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                line.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            put(error)

    thread = threading.Thread(target=read, daemon=True, name="read corpus")
    thread.start()
    try:
        while (item := line.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        # A reader that waits for a slow source ends by itself, at the next batch or with the process.
        thread.join(timeout=5)
