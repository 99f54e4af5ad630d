"""Token stores: two memory-mapped splits of ids and their manifest; opening, checking and statistics."""

import contextlib
import mmap
import os
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import CompatibilityError, StoreError
from firstlight.files import MANIFEST, read_json, verify_manifest
from firstlight.shell import command_line
from firstlight.store.document_names import NameTable
from firstlight.store.megatron import open_megatron
from firstlight.types import UnknownText

FORMAT = 1
NAMES_FILE = "documents.safetensors"
_CHUNK = 1 << 22


class Split:
    """One split of a store, train or valid.

    Windows are read with ``read``, which costs no more than a memory map: an access to a map behind the end of a file
    that was cut meanwhile would kill the process (SIGBUS).

    Attributes:
        bounds: token offset of each document, and the end.
        n_bytes: UTF-8 bytes of its text.
        unknown: what is unknown in its text; None where the store does not say.
    """

    def __init__(self, directory: Path, side: str, n_bytes: int, unknown: UnknownText | None = None) -> None:
        self._tokens, self.bounds = open_megatron(directory / side)
        self.n_bytes, self.unknown = n_bytes, unknown
        self._directory, self._side = directory, side
        self._path = directory / f"{side}.bin"
        self._descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)

    @property
    def tokens(self) -> np.ndarray:
        """Ids, 1-D, memory-mapped.

        Raises:
            StoreError: the file has been cut since it was opened.
        """
        if os.fstat(self._descriptor).st_size < self._tokens.nbytes:
            raise self._cut()
        return self._tokens

    @property
    def n_tokens(self) -> int:
        """Number of ids, including end-of-text."""
        return len(self._tokens)

    def read(self, first: int, out: np.ndarray) -> None:
        """Read the ids from ``first`` on into ``out``, a row of ``dtype``.

        Raises:
            StoreError: the file has been cut since it was opened.
        """
        if not hasattr(os, "preadv"):  # Windows, where a mapped file cannot be cut
            out[:] = self._tokens[first : first + len(out)]
            return
        buffer, offset = out.view(np.uint8).data, first * out.itemsize
        while buffer:
            count = os.preadv(self._descriptor, [buffer], offset)
            if count == 0:
                raise self._cut()
            buffer, offset = buffer[count:], offset + count

    @property
    def dtype(self) -> np.dtype:
        """Type of the ids in the file."""
        return self._tokens.dtype

    def _cut(self) -> StoreError:
        return StoreError(
            "was cut while it was in use",
            where=self._path,
            found=f"{os.fstat(self._descriptor).st_size} bytes",
            expected=self._tokens.nbytes,
            fix="Put the whole file back, or make the store again; a run continues with --resume.",
        )

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.bounds) - 1

    def prefetch(self) -> None:
        """Ask the operating system to read all ids ahead, if they fit into half of the memory.

        Windows are read in random order: without this, the first read of each waits for the disk. ``MADV_RANDOM``
        would make it wait once per page. A split too large for memory keeps the default read-ahead of about 128 KiB.
        Does nothing where ``madvise`` is not supported.
        """
        mapped: object = self._tokens.base
        if not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_WILLNEED") or not hasattr(os, "sysconf"):
            return
        with contextlib.suppress(OSError, ValueError):
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            if self._tokens.nbytes <= memory // 2:
                mapped.madvise(mmap.MADV_WILLNEED)

    @cached_property
    def _names(self) -> NameTable | None:
        path = self._directory / NAMES_FILE
        return NameTable(path, self._side) if path.is_file() else None

    def document_name(self, document: int) -> str:
        """Return the origin of a document."""
        if self._names is None or document >= len(self._names):
            return f"{self._side} document {document}"
        return self._names[document]

    def document_names(self, first: int, last: int) -> list[str]:
        """Return the origins of the documents with tokens in ``[first, last)``."""
        begin, end = np.searchsorted(self.bounds, [first, last - 1], side="right") - 1
        return [self.document_name(document) for document in range(int(begin), int(end) + 1)]


class TokenStore:
    """A complete token store; see ``open``.

    Attributes:
        sequence_length: ids per document, if all have the same number and each is one row; otherwise None.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory, self.manifest = directory, manifest
        self.vocab_size = int(manifest["vocab_size"])
        self.eot_id = int(manifest["eot_id"])
        self.tokenizer_hash = str(manifest["tokenizer"])
        self.fingerprint = str(manifest["fingerprint"])
        self.sequence_length: int | None = manifest.get("sequence")
        self.train, self.valid = (
            Split(directory, side, int(manifest[f"{side}_bytes"]), _read_unknown(manifest, side))
            for side in ("train", "valid")
        )

    def source_names(self, key: str = "sources") -> list[str]:
        """Return the names of its ``sources``, or of its ``valid_sources``, which are empty where they were split."""
        found = self.manifest.get(key, [])
        return [str(table["name"]) for table in found]

    @classmethod
    def open(cls, directory: Path, *, tokenizer_hash: str | None = None) -> "TokenStore":
        """Open a store, checking its format and the sizes of its files (``open_store`` verifies every byte).

        Raises:
            StoreError: it is incomplete, damaged or of another format.
            CompatibilityError: it was made with another tokenizer.
        """
        path = directory / MANIFEST
        if not path.is_file():
            raise StoreError(
                "is not a complete token store",
                where=directory,
                found="no manifest.json",
                fix=f"Make it again from its corpus. How: {command_line('data', 'prepare', '--help')}",
            )
        manifest = read_json(path, StoreError)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "vocab_size" not in manifest:
            found = manifest.get("format", "no format") if isinstance(manifest, dict) else "no object"
            raise StoreError(
                "is not a token store of this version", where=path, found=found, expected=f"format {FORMAT}"
            )
        problems = verify_manifest(directory, contents=False)
        if problems:
            raise StoreError(problems[0], fix="Delete the store, and make it again from its corpus.")
        if tokenizer_hash is not None and manifest["tokenizer"] != tokenizer_hash:
            raise CompatibilityError(
                "was made with another tokenizer",
                where=directory,
                found=f"hash {tokenizer_hash[:12]}",
                expected=f"hash {manifest['tokenizer'][:12]}",
                fix="Use the tokenizer that made it, or prepare the text again.",
            )
        try:
            return cls(directory, manifest)
        except KeyError as error:
            raise StoreError(f"lacks {error.args[0]}", where=path) from error


def _read_unknown(manifest: dict[str, Any], side: str) -> UnknownText | None:
    """Return the unknown part of a split; a store of an earlier version has no counts."""
    tokens, n_bytes, n_dropped, dropped_bytes = (
        manifest.get(f"{side}_{name}") for name in ("unk_tokens", "unk_bytes", "dropped_characters", "dropped_bytes")
    )
    return None if tokens is None else UnknownText(tokens, n_bytes, n_dropped or 0, dropped_bytes or 0)


def unigram_counts(split: Split) -> np.ndarray:
    """Count the occurrences of each id up to the highest one: (V,) int64."""
    counts = np.zeros(0, dtype=np.int64)
    for first in range(0, split.n_tokens, _CHUNK):
        part = np.bincount(split.tokens[first : first + _CHUNK])
        size = max(len(counts), len(part))
        counts = np.pad(counts, (0, size - len(counts))) + np.pad(part, (0, size - len(part)))
    return counts


def store_stats(store: TokenStore, top: int = 20) -> dict[str, Any]:
    """Compute statistics: sizes of the splits, lengths of documents, the most frequent ids."""
    lengths = np.diff(store.train.bounds)
    counts = unigram_counts(store.train)
    order = np.argsort(counts)[::-1][:top]
    return {
        "train": _split_stats(store.train),
        "valid": _split_stats(store.valid),
        "bytes_per_token": store.train.n_bytes / max(store.train.n_tokens, 1),
        "vocab_size": store.vocab_size,
        "ids_used": int((counts > 0).sum()),
        "document_tokens": {f"p{p}": float(np.percentile(lengths, p)) for p in (0, 10, 50, 90, 99, 100)},
        "top": [(int(i), int(counts[i])) for i in order if counts[i] > 0],
        "sources": store.manifest.get("sources", []),
    }


def _split_stats(split: Split) -> dict[str, Any]:
    unknown = {} if split.unknown is None else split.unknown.to_json(split.n_tokens)
    return {"documents": split.n_documents, "tokens": split.n_tokens, "bytes": split.n_bytes, **unknown}
