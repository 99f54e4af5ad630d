"""Corpus to token store: read, encode, split, write; whole or not at all.

A reader thread runs ahead, the encoder uses all cores by itself, and ids go straight to disk, so
memory does not grow with the text. With 20 documents or more a source is split by document: each
goes where a hash of its beginning and the seed says, so equal documents never fall on both sides,
and the first 19 train. With fewer, the last ``valid_ratio`` of the text is the valid split.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from firstlight import progress
from firstlight.errors import ContractError, StoreError
from firstlight.files import MANIFEST, atomic_directory, remove_leftovers, write_manifest
from firstlight.store.megatron import dtype_for, write_index
from firstlight.store.names import NameTable
from firstlight.store.settings import DataSettings
from firstlight.store.store import FORMAT, TokenStore
from firstlight.types import Document, Encoder

_BATCH_CHARACTERS = 4 << 20
_FEW = 20


class SourceLike(Protocol):
    """What the store needs to know of a source; it never imports that room."""

    name: str
    n_bytes: int

    def documents(self) -> Iterator[Document]: ...
    def fingerprint(self) -> str: ...


def fingerprint(sources: Sequence[SourceLike], encoder: Encoder, settings: DataSettings, seed: int) -> dict[str, Any]:
    """Return what a store is made from; equal tables make equal stores."""
    return {
        "format": FORMAT, "tokenizer": encoder.hash, "sources": [s.fingerprint() for s in sources],
        "valid_ratio": settings.valid_ratio, "seed": seed,
    }  # fmt: skip


def prepare(
    directory: Path, sources: Sequence[SourceLike], encoder: Encoder, settings: DataSettings, *, seed: int,
    extra: Mapping[str, Any] | None = None, overwrite: bool = False,
) -> TokenStore:  # fmt: skip
    """Write a token store, or use the one that is there when it was made from the same inputs.

    Raises:
        ContractError: ``directory`` holds a store made from something else; says what differs.
        StoreError: too little text for two splits.
        StorageError: the disk is full or read-only.
    """
    made_from = fingerprint(sources, encoder, settings, seed)
    if settings.weights is not None and len(settings.weights) != len(sources):
        raise StoreError("needs one weight a source", where="data.weights", found=len(settings.weights), expected=len(sources))
    if (directory / MANIFEST).is_file() and not overwrite:
        store = TokenStore.open(directory)
        differs = [k for k in made_from if made_from[k] != store.manifest.get("made_from", {}).get(k)]
        if differs:
            raise ContractError(
                "holds a token store made from something else", where=directory, found=f"another {', '.join(differs)}",
                fix="Choose another --out, or delete it.",
            )  # fmt: skip
        progress.notice(f"{directory}: made before from the same inputs and settings; used again")
        return store
    if directory.is_dir():
        remove_leftovers(directory.parent)
    with atomic_directory(directory) as folder:
        writer = _Writer(folder, encoder, settings, seed)
        total = sum(s.n_bytes for s in sources)
        with progress.task("encode", total or None, "B") as task:
            tables = [writer.source(source, task) for source in sources]
        writer.finish({**(extra or {}), "made_from": made_from, "sources": tables}, settings)
    store = TokenStore.open(directory)
    progress.notice(
        f"{directory}: {store.train.n_tokens:,} training and {store.valid.n_tokens:,} valid tokens "
        f"from {store.train.n_documents + store.valid.n_documents:,} documents"
    )
    return store


class _Writer:
    """Writes both splits of a store into a folder."""

    def __init__(self, folder: Path, encoder: Encoder, settings: DataSettings, seed: int) -> None:
        self._folder, self._encoder, self._settings, self._seed = folder, encoder, settings, seed
        self._dtype = dtype_for(encoder.vocab_size)
        self._files: dict[str, BinaryIO] = {s: (folder / f"{s}.bin").open("w+b") for s in ("train", "valid")}
        self._lengths: dict[str, list[int]] = {"train": [], "valid": []}
        self._bytes = {"train": 0, "valid": 0}
        self._byte_lengths = encoder.byte_lengths().astype(np.int64)
        self._names = NameTable()
        self._open: dict[str, int] = {}

    def source(self, source: SourceLike, task: progress.Task) -> dict[str, Any]:
        """Write one source; return its table for the manifest."""
        before = {s: (sum(self._lengths[s]), len(self._lengths[s]), self._bytes[s]) for s in self._files}
        names: list[tuple[str, str]] = []
        early: set[bytes] = set()
        side, going_on = "train", False
        for texts, flags in _ahead(_batches(source, self._encoder)):
            ids, counts = self._encoder.encode_batch([text for text, _, _ in texts])
            self._check(ids, source.name)
            bounds = np.concatenate(([0], np.cumsum(counts)))
            task.advance(flags)
            for i, (text, name, continues) in enumerate(texts):
                if not going_on:
                    side = self._side(text, len(names), early)
                    names.append((side, name))
                    self._lengths[side].append(0)
                self._write(side, ids[bounds[i] : bounds[i + 1]])
                if not continues:
                    self._write(side, np.array([self._encoder.eot_id]))
                going_on = continues
        in_valid = sum(s == "valid" for s, _ in names)
        if len(names) < _FEW or in_valid == 0:
            names = self._move_tail(source.name, before, names)
        for where, name in names:
            self._names.add(where, name)
        table: dict[str, Any] = {"name": source.name}
        for s, (tokens, documents, n_bytes) in before.items():
            table[s] = {
                "first_token": tokens, "tokens": sum(self._lengths[s]) - tokens, "first_document": documents,
                "documents": len(self._lengths[s]) - documents, "bytes": self._bytes[s] - n_bytes,
            }  # fmt: skip
        return table

    def _check(self, ids: np.ndarray, name: str) -> None:
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self._encoder.vocab_size):
            bad = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise StoreError("the encoder gave an id outside its vocabulary", where=name, found=bad, expected=f"0 to {self._encoder.vocab_size - 1}")

    def _side(self, text: str, number: int, early: set[bytes]) -> str:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=self._seed.to_bytes(8, "little")).digest()
        if number < _FEW - 1:
            early.add(key)
            return "train"
        share = int.from_bytes(key, "little") / 2**64
        return "valid" if share < self._settings.valid_ratio and key not in early else "train"

    def _write(self, side: str, ids: np.ndarray) -> None:
        self._files[side].write(ids.astype(self._dtype).tobytes())
        self._lengths[side][-1] += len(ids)
        self._bytes[side] += int(self._byte_lengths[ids].sum())

    def _move_tail(
        self, source: str, before: dict[str, tuple[int, int, int]], names: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Move the last ``valid_ratio`` of a source's text from train to valid."""
        first_token, first_document, _ = before["train"]
        lengths = self._lengths["train"][first_document:]
        tokens = sum(lengths)
        keep = int((tokens - len(lengths)) * (1 - self._settings.valid_ratio))
        if keep < 2 or tokens - keep < 2:
            raise StoreError("holds too little text for a train and a valid split", where=source, found=f"{tokens} tokens")
        file, size = self._files["train"], self._dtype.itemsize
        file.flush()
        file.seek((first_token + keep) * size)
        while block := file.read(1 << 24):
            ids = np.frombuffer(block, self._dtype)
            moved = int(self._byte_lengths[ids].sum())
            self._bytes["train"] -= moved
            self._bytes["valid"] += moved
            self._files["valid"].write(block)
        file.truncate((first_token + keep) * size)
        file.seek(0, 2)
        ends = np.cumsum(lengths)
        cut = int(np.searchsorted(ends, keep, side="left"))  # the document in which the cut falls
        inside = int(keep - (ends[cut] - lengths[cut]))
        tail = [int(lengths[cut]) - inside, *map(int, lengths[cut + 1 :])]
        head = [*map(int, lengths[:cut]), inside]
        self._lengths["train"][first_document:] = head
        tail = tail if tail[0] else tail[1:]
        self._lengths["valid"] += tail
        return [("train", n) for _, n in names[: len(head)]] + [("valid", n) for _, n in names[-len(tail) :]]

    def finish(self, facts: dict[str, Any], settings: DataSettings) -> None:
        """Write indices, names and the manifest."""
        for side, file in self._files.items():
            file.close()
            if not self._lengths[side]:
                raise StoreError(f"the {side} split is empty", fix="Bring more text, or change data.valid_ratio.")
            write_index(self._folder / f"{side}.idx", np.array(self._lengths[side], dtype=np.int64), self._dtype)
        self._names.save(self._folder / "documents.safetensors")
        counts = {
            f"{side}_{what}": value
            for side in self._files
            for what, value in (
                ("documents", len(self._lengths[side])), ("tokens", sum(self._lengths[side])), ("bytes", self._bytes[side]),
            )
        }  # fmt: skip
        made_from = json.dumps(facts["made_from"], sort_keys=True)
        write_manifest(
            self._folder,
            {
                "format": FORMAT, "fingerprint": hashlib.sha256(made_from.encode()).hexdigest(),
                "tokenizer": self._encoder.hash, "vocab_size": self._encoder.vocab_size, "eot_id": self._encoder.eot_id,
                "dtype": self._dtype.name, "valid_ratio": settings.valid_ratio, **counts, **facts,
                "name_prefixes": list(self._names.prefixes),
            },
        )  # fmt: skip


_Texts = list[tuple[str, str, bool]]


def _batches(source: SourceLike, encoder: Encoder) -> Iterator[tuple[_Texts, int]]:
    """Group texts into batches of some megabytes; pieces of a long text are cut where ids stay those of the whole."""
    batch: _Texts = []
    size, held = 0, ""
    for document in source.documents():
        if not isinstance(document.content, str):
            raise StoreError("a document is no text", where=document.source)
        text = held + document.content
        held = ""
        if document.continues:
            at = encoder.cut(text)
            text, held = text[:at], text[at:]
            if not text:
                continue
        batch.append((text, document.source, document.continues))
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def _ahead(batches: Iterator[tuple[_Texts, int]]) -> Iterator[tuple[_Texts, int]]:
    """Read in a thread of its own, up to two batches ahead."""
    line: queue.Queue[tuple[_Texts, int] | BaseException | None] = queue.Queue(2)
    stop = threading.Event()

    def put(item: tuple[_Texts, int] | BaseException | None) -> bool:
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
        thread.join()
