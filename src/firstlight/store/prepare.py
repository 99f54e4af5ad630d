"""Write a token store from a corpus: read, encode, split, write; atomically, and on from where it was interrupted.

A thread reads ahead, the encoder uses all cores, and ids go straight to disk, so memory does not grow with the text.
Every five seconds the state of the writer is saved: an interrupted preparation reads the current source again, but does
not encode it again, and writes the same bytes as one that was not interrupted.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from firstlight import progress
from firstlight.errors import CompatibilityError, StoreError
from firstlight.files import MANIFEST, is_temporary, remove_stale_files, storage_errors
from firstlight.store.preparation import STORE_FILES, TOKENIZER, Preparation
from firstlight.store.settings import DataSettings
from firstlight.store.store import FORMAT, Split, TokenStore
from firstlight.store.verification import open_store, remember
from firstlight.store.writer import HASHED_CHARACTERS, Chunk, StoreWriter
from firstlight.types import Document, Encoder, IdVocabulary, Vocabulary

_INPUTS = {"sources": "source", "valid": "validation text"}  # in messages
_BATCH_CHARACTERS = 4 << 20  # or ids
_SAVE_SECONDS = 5.0  # between the states from which an interrupted preparation goes on
# A text without a safe split point is held in memory up to this size.
_MAX_HELD_CHARACTERS = 1 << 20


class SourceLike(Protocol):
    """The part of a corpus source that the store uses."""

    name: str
    n_bytes: int

    def documents(self) -> Iterator[Document]:
        """Yield its documents, the same ones each time."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of everything that determines its documents."""
        ...


def fingerprint(
    sources: Sequence[SourceLike],
    encoder: Vocabulary,
    settings: DataSettings,
    seed: int,
    valid: Sequence[SourceLike] = (),
) -> dict[str, Any]:
    """Return the inputs of a store; equal inputs make equal stores."""
    return {
        "format": FORMAT,
        "tokenizer": encoder.hash,
        "sources": [s.fingerprint() for s in sources],
        "valid_ratio": settings.valid_ratio,
        "seed": seed,
        **({"valid": [s.fingerprint() for s in valid]} if valid else {}),
    }


def prepare(
    directory: Path,
    sources: Sequence[SourceLike],
    encoder: Encoder | IdVocabulary,
    settings: DataSettings,
    *,
    seed: int,
    valid: Sequence[SourceLike] = (),
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> TokenStore:
    """Write a token store, or reuse an existing one with the same inputs.

    Args:
        directory: the store's folder; it appears when it is complete.
        sources: texts, in order; each is split on its own.
        encoder: the tokenizer, or the vocabulary of documents that are ids already.
        settings: how the text is split into train and valid.
        seed: seed of the split by document.
        valid: texts of the valid split, if it is not taken from ``sources``.
        extra: further values for the manifest.
        overwrite: replace an existing store.

    Raises:
        CompatibilityError: ``directory`` holds a store with other inputs; the message names the differences.
        StoreError: too little text for two splits.
        StorageError: the disk is full or read-only.
    """
    if settings.weights is not None and len(settings.weights) != len(sources):
        raise StoreError(
            "needs one weight per source", where="data.weights", found=len(settings.weights), expected=len(sources)
        )
    inputs = fingerprint(sources, encoder, settings, seed, valid)
    if (directory / MANIFEST).is_file() and not overwrite:
        return _reuse(directory, inputs, verify=settings.verify)
    if directory.parent.is_dir():
        remove_stale_files(directory.parent)
    if not overwrite:
        _check_free(directory)
    facts = {**(extra or {}), "made_from": inputs}
    with Preparation(directory, facts) as preparation:
        if not preparation.is_complete:
            _write(preparation, sources, encoder, settings, seed, facts, valid)
        preparation.publish()
    store = TokenStore.open(directory)
    remember(store)
    progress.notice(f"{directory}: {_tokens(store.train)} for training, {_tokens(store.valid)} for validation")
    return store


def _dropped(source: SourceLike) -> dict[str, Any]:
    """Return what a corpus source has dropped, and what could not be read as it is, for the manifest."""
    counts, names = getattr(source, "tally", None), ("dropped", "bad_documents", "n_bad", "bad_bytes", "notes")
    table = {name: found for name in names if (found := getattr(counts, name, None))}
    skipped = getattr(source, "skipped", None)  # files in a folder
    return {**table, "skipped": dict(skipped)} if skipped else table


def _write(
    preparation: Preparation,
    sources: Sequence[SourceLike],
    encoder: Encoder | IdVocabulary,
    settings: DataSettings,
    seed: int,
    facts: Mapping[str, Any],
    valid: Sequence[SourceLike],
) -> None:
    """Write the files of a store, or those that an interrupted preparation has not written."""
    state = preparation.state or {}
    first_source, n_batches = state.get("position", (0, 0))
    tables, done = list(state.get("tables", [])), int(state.get("done", 0))
    n_sources, sources = len(sources), [*sources, *valid]
    total = sum(s.n_bytes for s in sources)
    if state:
        read = f"{_megabytes(done)} of {_megabytes(total)}"
        progress.notice(f"{preparation.store}: an interrupted preparation is resumed after {read}")
    folder, segments = preparation.folder, preparation.segments()
    with (
        storage_errors(preparation.store),
        StoreWriter(folder, encoder, settings, seed, state=preparation.state, segments=segments) as writer,
        progress.task("encode", total or None, "B") as task,
    ):
        task.advance(done)
        saved_at = time.monotonic()

        def save(position: tuple[int, int]) -> None:
            nonlocal saved_at
            tallies = [_tally(source) for source in sources[: position[0]]]
            writer.save(preparation, {"position": position, "tables": tables, "tallies": tallies, "done": done})
            saved_at = time.monotonic()

        for source, tally in zip(sources, state.get("tallies", []), strict=False):
            _restore_tally(source, tally)
        for number, source in enumerate(sources[first_source:], start=first_source):
            if number > first_source or not n_batches:
                side = ("train" if number < n_sources else "valid") if valid else None
                writer.begin_source(source.name, side)
            skipped = n_batches if number == first_source else 0
            with contextlib.closing(_read_ahead(islice(_batches(source, encoder), skipped, None))) as batches:
                for n_read, batch in enumerate(batches, start=skipped + 1):
                    n_bytes = writer.write(batch)
                    done += n_bytes
                    task.advance(n_bytes)
                    if time.monotonic() - saved_at > _SAVE_SECONDS:
                        save((number, n_read))
            tables.append({**writer.end_source(), **_dropped(source)})
            # A state of this source does not hold after its end, which may have moved the last documents.
            if preparation.state is not None or time.monotonic() - saved_at > _SAVE_SECONDS:
                save((number + 1, 0))
        by_side = {"sources": tables[:n_sources], "valid_sources": tables[n_sources:]}
        writer.finish({**facts, **{key: found for key, found in by_side.items() if found}})


def _check_free(directory: Path) -> None:
    """Refuse to replace a folder that holds other files than those of a store."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name not in STORE_FILES | {TOKENIZER} and not is_temporary(path.name):
            raise StoreError(
                "holds files that are not of a token store",
                where=directory,
                found=path.name,
                fix="Move them away, or choose another folder.",
            )


def _tally(source: SourceLike) -> dict[str, Any] | None:
    tally = getattr(source, "tally", None)
    return None if tally is None else asdict(tally)


def _restore_tally(source: Any, table: Mapping[str, Any] | None) -> None:
    """Set the counts of a source that is not read again."""
    if table is not None:
        source.tally = type(source.tally)(**table)


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _tokens(split: Split) -> str:
    return f"{split.n_tokens:,} tokens ({split.n_documents:,} document{'s' * (split.n_documents != 1)})"


def _reuse(directory: Path, inputs: Mapping[str, Any], *, verify: bool) -> TokenStore:
    store = open_store(directory, verify=verify)
    before = store.manifest.get("made_from", {})
    # A store without a validation text of its own has no such key.
    differs = [key for key in dict.fromkeys([*inputs, "valid"]) if before.get(key) != inputs.get(key)]
    if differs:
        plain = {key: f"{key} {before.get(key)}" for key in ("format", "valid_ratio", "seed")}
        raise CompatibilityError(
            "holds a token store made from other inputs",
            where=directory,
            found=", ".join(plain.get(key, f"another {_INPUTS.get(key, key)}") for key in differs),
            expected=", ".join(f"{key} {inputs[key]}" for key in differs if key in plain) or None,
            fix="Choose another --out, or delete it.",
        )
    progress.notice(f"{directory}: reused: it was made from the same inputs and settings")
    return store


def _batches(source: SourceLike, encoder: Encoder | IdVocabulary) -> Iterator[list[Chunk]]:
    """Group documents into batches of a few megabytes."""
    batch: list[Chunk] = []
    size = 0
    for piece in _split_texts(source, encoder) if isinstance(encoder, Encoder) else _id_chunks(source):
        batch.append(piece)
        size += len(piece.content)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _id_chunks(source: SourceLike) -> Iterator[Chunk]:
    started = False
    for document in source.documents():
        content = document.content
        if isinstance(content, str):
            raise StoreError("a document is text, expected ids", where=document.source)
        yield Chunk(
            content, document.source, None if started else content[:HASHED_CHARACTERS].tobytes(), document.continues
        )
        started = document.continues


def _split_texts(source: SourceLike, encoder: Encoder) -> Iterator[Chunk]:
    """Split long texts where the ids stay those of the whole text."""
    held, started, warned = "", False, False
    for document in source.documents():
        if not isinstance(document.content, str):
            raise StoreError("a document is not text", where=document.source)
        text, held = held + document.content, ""
        prefix = None if started else text[:HASHED_CHARACTERS].encode("utf-8", "surrogatepass")
        if document.continues:
            at = encoder.split_point(text) if started or len(text) >= HASHED_CHARACTERS else 0
            if at == 0 and len(text) >= _MAX_HELD_CHARACTERS:
                at = len(text)
                if not warned:
                    progress.warn(
                        f"{document.source}: {at:,} characters without a safe split point for this tokenizer "
                        "(no white space?): split anyway, so ids may differ there from those of the whole text"
                    )
                    warned = True
            text, held = text[:at], text[at:]
            if not text:
                continue
        yield Chunk(text, document.source, prefix, document.continues)
        started = document.continues


def _read_ahead(batches: Iterator[list[Chunk]]) -> Generator[list[Chunk], None, None]:
    """Read in another thread, up to two batches ahead."""
    pending: queue.Queue[list[Chunk] | BaseException | None] = queue.Queue(2)
    stop = threading.Event()

    def put(item: list[Chunk] | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                pending.put(item, timeout=0.1)
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
        except BaseException as error:  # noqa: BLE001 - raised again in the consuming thread
            put(error)

    thread = threading.Thread(target=read, daemon=True, name="read corpus")
    thread.start()
    try:
        while (item := pending.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        # A thread that waits for a slow source ends at the next batch, or with the process.
        thread.join(timeout=1)
