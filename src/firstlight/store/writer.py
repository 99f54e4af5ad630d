"""Write both splits of a token store, in one pass over the text.

A source of 20 documents or more is split by document: a hash of its prefix and the seed decides, so that equal
documents of a source are in the same split; the first 19 are in train. If valid then has nothing to predict, as with
fewer documents, the end of the source's text becomes valid. With a validation text of its own, nothing is split.
"""

import contextlib
import hashlib
import json
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from firstlight import progress
from firstlight.errors import StoreError
from firstlight.files import write_manifest
from firstlight.store.copies import find_copies
from firstlight.store.document_names import NameTableWriter
from firstlight.store.megatron import smallest_dtype, write_index
from firstlight.store.preparation import PROGRESS, TOKENIZER, Preparation
from firstlight.store.settings import DataSettings
from firstlight.store.store import FORMAT
from firstlight.store.unknown_log import UnknownLog
from firstlight.types import EncodedTexts, Encoder, IdVocabulary, UnknownText

# Prefix of a document, in characters or ids, that decides its split.
HASHED_CHARACTERS = 1 << 16
_FEW = 20
_MOVED_BYTES = 1 << 22
_SIDES = ("train", "valid")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a document, split where its ids do not depend on what follows.

    Attributes:
        content: text, or ids (1-D).
        source: origin of the document.
        prefix: of the document, in its first chunk; otherwise None.
        continues: the next chunk belongs to the same document.
    """

    content: str | np.ndarray
    source: str
    prefix: bytes | None
    continues: bool


@dataclass(frozen=True, slots=True)
class _Saved:
    """What segments hold: documents of each side, prefixes of their names; and the number of segments."""

    documents: dict[str, int]
    prefixes: int
    segments: int


class StoreWriter:
    """Writes a store; a context manager that closes its files.

    Args:
        folder: where; it exists.
        encoder: makes the ids.
        settings: how the text is split.
        seed: of the split by document.
        state: of an interrupted writer, as ``state`` returned it, or None.
        segments: all segments that belong to it.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder | IdVocabulary,
        settings: DataSettings,
        seed: int,
        *,
        state: Mapping[str, Any] | None = None,
        segments: Sequence[Mapping[str, np.ndarray]] = (),
    ) -> None:
        self._folder, self._encoder, self._settings = folder, encoder, settings
        self._tokenizer = encoder if isinstance(encoder, Encoder) else None  # None: documents are ids already
        self._sequence = None if isinstance(encoder, Encoder) else encoder.sequence_length
        self._key = seed.to_bytes(8, "little")
        self._dtype = smallest_dtype(encoder.vocab_size)
        self._byte_lengths = encoder.byte_lengths().astype(np.int64)
        mode = "w+b" if state is None else "r+b"
        self._files: dict[str, BinaryIO] = {side: (folder / f"{side}.bin").open(mode) for side in _SIDES}  # type: ignore[misc]
        self._lengths = {side: array("q") for side in _SIDES}
        self._tokens = dict.fromkeys(_SIDES, 0)
        self._bytes = dict.fromkeys(_SIDES, 0)  # of known text
        self._unknown = UnknownLog(
            folder / PROGRESS, None if self._tokenizer is None else self._tokenizer.unknown_id, resume=state is not None
        )
        self._names = NameTableWriter()
        self._early: set[bytes] = set()
        self._side = "train"
        self._whole: str | None = None  # the side of the current source, if it is not split
        self._source, self._documents = "", 0
        self._copies: list[tuple[str, ...]] = []  # documents in valid, and those in train that they are copies of
        self._before: dict[str, tuple[int, int, int]] = {}
        # What the segments hold, now and when the source began: documents of each side, prefixes, segments.
        self._saved = self._saved_before = _Saved(dict.fromkeys(_SIDES, 0), 0, 0)
        if state is not None:
            self._load(state, segments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        open_files: list[BinaryIO | UnknownLog] = [*self._files.values(), self._unknown]
        for file in open_files:
            # On a full disk closing fails too; the first error is the one to report.
            with contextlib.suppress(OSError) if error is not None else contextlib.nullcontext():
                file.close()

    def begin_source(self, source: str, side: str | None = None) -> None:
        """Start a source; all of it goes to ``side``, or it is split."""
        self._source, self._documents, self._whole = source, 0, side
        self._copies = []
        self._before = {s: (self._tokens[s], len(self._lengths[s]), self._bytes[s]) for s in _SIDES}
        self._unknown.begin_source()
        self._saved_before = self._saved

    def write(self, chunks: list[Chunk]) -> int:
        """Encode and write chunks; return the bytes of their text, or the number of ids if they are ids."""
        encoded = self._encode(chunks)
        ids, counts = encoded.ids, encoded.counts
        self._check(ids)
        ends = np.array([not chunk.continues and self._encoder.eot_id >= 0 for chunk in chunks])
        in_valid = np.empty(len(chunks), dtype=bool)
        lengths = (counts + ends).tolist()
        for i, chunk in enumerate(chunks):
            if chunk.prefix is not None:
                self._begin_document(chunk.source, chunk.prefix)
            in_valid[i] = self._side == "valid"
            self._lengths[self._side][-1] += lengths[i]
        self._unknown.add(encoded, in_valid)
        ids = np.insert(ids, np.cumsum(counts)[ends], self._encoder.eot_id)
        if in_valid.any():
            mask = np.repeat(in_valid, lengths)
            n_bytes = self._put("valid", ids[mask]) + self._put("train", ids[~mask])
        else:
            n_bytes = self._put("train", ids)
        return int(counts.sum()) if self._tokenizer is None else n_bytes

    def _encode(self, chunks: list[Chunk]) -> EncodedTexts:
        if self._tokenizer is not None:
            return self._tokenizer.encode_counted([str(chunk.content) for chunk in chunks])
        ids = [np.asarray(chunk.content) for chunk in chunks]
        counts = np.array([len(part) for part in ids], dtype=np.int64)
        return EncodedTexts(np.concatenate(ids), counts, np.zeros(0, np.int64), np.zeros((len(ids), 2), np.int64))

    def end_source(self) -> dict[str, Any]:
        """Finish the source; return its entry in the manifest."""
        if self._whole is not None:
            self._check_length(self._whole)
        elif self._tokens["valid"] - self._before["valid"][0] < 2:  # one predicts nothing
            self._move_tail()
            self._saved = self._saved_before
        table: dict[str, Any] = {"name": self._source}
        if self._copies:
            table["copies"] = self._copies
            self._warn_of_copies()
        for side, (tokens, documents, n_bytes) in self._before.items():
            unknown, n_tokens = self._unknown.of_source(side), self._tokens[side] - tokens
            table[side] = {
                "first_token": tokens,
                "tokens": n_tokens,
                "first_document": documents,
                "documents": len(self._lengths[side]) - documents,
                "bytes": self._bytes[side] - n_bytes + _unknown_bytes(unknown),
                **(unknown.to_json(n_tokens) if unknown.count else {}),
            }
        return table

    def _warn_of_copies(self) -> None:
        n, (copy, original) = len(self._copies), self._copies[0]
        what = f"{copy}: is the same document as {original}" + (f", and {n - 1} more like it" if n > 1 else "")
        progress.warn(
            f"{what}: the end of the text is for validation, so the validation loss is of text that was trained on. "
            "Remove the copy, or set corpus.dedup=exact"
        )

    def _check_length(self, side: str) -> None:
        n = self._tokens[side] - self._before[side][0]
        if n < 2:
            raise StoreError(
                f"holds too little text for {'training' if side == 'train' else 'validation'}",
                where=self._source,
                found=f"{n} token{'s' * (n != 1)}",
                fix="Add more text.",
            )

    def finish(self, facts: dict[str, Any]) -> None:
        """Write indices, names and, last, the manifest."""
        self._unknown.close()
        for side, file in self._files.items():
            file.truncate(self._tokens[side] * self._dtype.itemsize)
            file.close()
            write_index(self._folder / f"{side}.idx", np.array(self._lengths[side], dtype=np.int64), self._dtype)
        self._names.save(self._folder / "documents.safetensors")
        counts: dict[str, Any] = {
            f"{side}_{what}": value
            for side in _SIDES
            for what, value in (
                ("documents", len(self._lengths[side])),
                ("tokens", self._tokens[side]),
                ("bytes", self._bytes[side] + _unknown_bytes(self._unknown.of(side))),
            )
        }
        if self._tokenizer is not None:
            for side in _SIDES:
                unknown = self._unknown.of(side).to_json(self._tokens[side])
                counts |= {f"{side}_{name}": value for name, value in unknown.items()}
        made_from = json.dumps(facts["made_from"], sort_keys=True)
        write_manifest(
            self._folder,
            {
                "format": FORMAT,
                "fingerprint": hashlib.sha256(made_from.encode()).hexdigest(),
                "tokenizer": self._encoder.hash,
                "vocab_size": self._encoder.vocab_size,
                "eot_id": self._encoder.eot_id,
                **({"sequence": self._sequence} if self._sequence else {}),
                "dtype": self._dtype.name,
                "valid_ratio": self._settings.valid_ratio,
                **counts,
                **facts,
            },
            exclude=(PROGRESS, TOKENIZER),
        )

    def save(self, preparation: Preparation, position: Mapping[str, Any]) -> None:
        """Save the state of the writer, and ``position``, which says what was written.

        The last document of each side may not be complete: it is in the state, those before it are in segments.
        """
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._unknown.sync()
        ends = {side: max(len(self._lengths[side]) - 1, 0) for side in _SIDES}
        saved = self._saved
        slices = {side: slice(saved.documents[side], ends[side]) for side in _SIDES}
        segment = self._names.segment(slices, saved.prefixes)
        last = self._names.segment({side: slice(ends[side], None) for side in _SIDES}, len(self._names))
        for side in _SIDES:
            segment[f"{side}.length"] = np.array(self._lengths[side][slices[side]], dtype=np.int64)
            last[f"{side}.length"] = np.array(self._lengths[side][ends[side] :], dtype=np.int64)
        state = {
            **position,
            "sizes": {
                **{f"{side}.bin": self._tokens[side] * self._dtype.itemsize for side in _SIDES},
                **{f"{PROGRESS}/{name}": size for name, size in self._unknown.sizes().items()},
            },
            "unknown": self._unknown.to_json(),
            "tokens": self._tokens,
            "bytes": self._bytes,
            "early": sorted(key.hex() for key in self._early),
            "side": self._side,
            "whole": self._whole,
            "source": self._source,
            "documents": self._documents,
            "before": self._before,
            "before_segments": asdict(self._saved_before),
            "last": {name: array.tolist() for name, array in last.items()},
        }
        preparation.save(state, segment, saved.segments)
        self._saved = _Saved(ends, len(self._names), saved.segments + 1)

    def _load(self, state: Mapping[str, Any], segments: Sequence[Mapping[str, np.ndarray]]) -> None:
        for segment in segments:
            self._extend(segment)
        self._saved = _Saved({s: len(self._lengths[s]) for s in _SIDES}, len(self._names), len(segments))
        self._extend({name: np.array(values, dtype=np.int64) for name, values in state["last"].items()})
        self._tokens, self._bytes = dict(state["tokens"]), dict(state["bytes"])
        self._unknown.load(state["unknown"])
        self._early = {bytes.fromhex(key) for key in state["early"]}
        self._side, self._source, self._documents = state["side"], state["source"], state["documents"]
        self._whole = state["whole"]
        self._before = {side: (a, b, c) for side, (a, b, c) in state["before"].items()}
        self._saved_before = _Saved(**state["before_segments"])
        for side, file in self._files.items():
            file.seek(self._tokens[side] * self._dtype.itemsize)

    def _extend(self, segment: Mapping[str, np.ndarray]) -> None:
        self._names.extend(segment)
        for side in _SIDES:
            self._lengths[side].extend(segment[f"{side}.length"].tolist())

    def _check(self, ids: np.ndarray) -> None:
        size = self._encoder.vocab_size
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= size):
            raise StoreError(
                "the encoder gave an id outside its vocabulary",
                where=self._source,
                found=int(ids.min()) if int(ids.min()) < 0 else int(ids.max()),
                expected=f"0 to {size - 1}",
            )

    def _begin_document(self, name: str, prefix: bytes) -> None:
        self._side = self._choose_split(prefix)
        self._documents += 1
        self._lengths[self._side].append(0)
        self._names.add(self._side, name)

    def _choose_split(self, prefix: bytes) -> str:
        if self._whole is not None:
            return self._whole
        key = hashlib.blake2b(prefix, digest_size=8, key=self._key).digest()
        if self._documents < _FEW - 1:
            self._early.add(key)
            return "train"
        fraction = int.from_bytes(key, "little") / 2**64
        return "valid" if fraction < self._settings.valid_ratio and key not in self._early else "train"

    def _put(self, side: str, ids: np.ndarray) -> int:
        n_bytes = int(self._byte_lengths[ids].sum())
        self._files[side].write(ids.astype(self._dtype).data)
        self._tokens[side] += len(ids)
        self._bytes[side] += n_bytes
        return n_bytes

    def _move_tail(self) -> None:
        """Move the last ``valid_ratio`` of the source from train, which holds all of it but one token, to valid."""
        first_token, first_document, _ = self._before["train"]
        lengths = np.array(self._lengths["train"][first_document:], dtype=np.int64)
        tokens = int(lengths.sum())
        # End-of-text ids do not count: a single document is split like its text.
        ends_of = len(lengths) if self._encoder.eot_id >= 0 else 0
        keep = int((tokens - ends_of) * (1 - self._settings.valid_ratio))
        keep -= keep % (self._sequence or 1)
        if keep < 2 or tokens - keep < 2:
            raise StoreError(
                "holds too little text for a training and a validation split",
                where=self._source,
                found=f"{tokens} tokens",
                fix="Add more text, or change data.valid_ratio.",
            )
        ends = np.cumsum(lengths)
        self._files["train"].flush()
        for pair in find_copies(self._files["train"], first_token, lengths, keep, self._dtype.itemsize):
            self._copies.append(tuple(self._names.get("train", first_document + i) for i in pair))
        self._move_ids(first_token + keep)
        cut = int(np.searchsorted(ends, keep, side="left"))  # the document that is split
        inside = int(keep - (ends[cut] - lengths[cut]))
        head = [*lengths[:cut].tolist(), inside]
        tail = [n for n in (int(lengths[cut]) - inside, *lengths[cut + 1 :].tolist()) if n]
        del self._lengths["train"][first_document:]
        self._lengths["train"].extend(head)
        self._lengths["valid"].extend(tail)
        self._names.move_tail(first_document + len(head), len(tail))

    def _move_ids(self, first: int) -> None:
        """Move the ids from ``first`` on from train to the end of valid.

        In the file of train they stay until others take their place: a state saved before needs them.
        """
        file, size = self._files["train"], self._dtype.itemsize
        file.flush()
        file.seek(first * size)
        fraction = (self._tokens["train"] - first) / max(self._tokens["train"] - self._before["train"][0], 1)
        n_unknown = 0
        while left := self._tokens["train"] - first:
            ids = np.frombuffer(file.read(min(left * size, _MOVED_BYTES)), self._dtype)
            moved = self._put("valid", ids)
            n_unknown += int((ids == self._unknown.unknown_id).sum()) if self._unknown.unknown_id is not None else 0
            self._tokens["train"] -= len(ids)
            self._bytes["train"] -= moved
        file.seek(first * size)
        self._unknown.move_tail(n_unknown, fraction)


def _unknown_bytes(unknown: UnknownText) -> int:
    return (unknown.n_bytes or 0) + unknown.dropped_bytes
