"""An open token store: two splits of ids, mapped from disk, and what the manifest says of them."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import ContractError, StoreError
from firstlight.files import MANIFEST, verify_manifest
from firstlight.store.megatron import open_ids
from firstlight.store.names import read_names

FORMAT = 1


class Split:
    """One side of a store.

    Attributes:
        tokens: ids, 1-D, mapped from disk.
        bounds: where documents begin, with the end as last entry.
        n_bytes: UTF-8 bytes of its text.
    """

    def __init__(self, directory: Path, side: str, n_bytes: int, prefixes: list[str]) -> None:
        self.tokens, self.bounds = open_ids(directory / side)
        self.n_bytes = n_bytes
        self._directory, self._side, self._prefixes = directory, side, prefixes

    @property
    def n_tokens(self) -> int:
        """Ids in all, end-of-text included."""
        return len(self.tokens)

    @property
    def n_documents(self) -> int:
        """Documents in all."""
        return len(self.bounds) - 1

    @cached_property
    def _names(self) -> tuple[np.ndarray, np.ndarray]:
        path = self._directory / "documents.safetensors"
        return read_names(path, self._side) if path.is_file() else (np.zeros(0), np.zeros(0))

    def name(self, document: int) -> str:
        """Return where a document came from."""
        which, place = self._names
        if document >= len(which):
            return f"document {document}"
        return self._prefixes[int(which[document])] + (str(int(place[document])) if place[document] >= 0 else "")


class TokenStore:
    """A finished store; ``open`` it."""

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory, self.manifest = directory, manifest
        self.vocab_size = int(manifest["vocab_size"])
        self.eot_id = int(manifest["eot_id"])
        self.tokenizer_hash = str(manifest["tokenizer"])
        self.fingerprint = str(manifest["fingerprint"])
        prefixes = list(manifest.get("name_prefixes", []))
        self.train = Split(directory, "train", int(manifest["train_bytes"]), prefixes)
        self.valid = Split(directory, "valid", int(manifest["valid_bytes"]), prefixes)

    @classmethod
    def open(cls, directory: Path, *, tokenizer_hash: str | None = None) -> "TokenStore":
        """Open a store, checking its format and the sizes of its files (``verify`` reads every byte).

        Raises:
            StoreError: it is unfinished, damaged or of another format.
            ContractError: it was made with another tokenizer.
        """
        path = directory / MANIFEST
        if not path.is_file():
            raise StoreError(
                "is no finished token store", where=directory, found="no manifest.json",
                fix="Make it again: firstlight data prepare CORPUS --out DIR",
            )  # fmt: skip
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError("is unreadable", where=path) from error
        if manifest.get("format") != FORMAT or "vocab_size" not in manifest:
            raise StoreError("is no token store of this version", where=path, found=manifest.get("format"), expected=FORMAT)
        problems = verify_manifest(directory, contents=False)
        if problems:
            raise StoreError(problems[0], fix="Make the store again: firstlight data prepare CORPUS --out DIR")
        if tokenizer_hash is not None and manifest["tokenizer"] != tokenizer_hash:
            raise ContractError(
                "was made with another tokenizer", where=directory, found=f"hash {tokenizer_hash[:12]}",
                expected=f"hash {manifest['tokenizer'][:12]}", fix="Use the tokenizer that made it, or prepare the text again.",
            )  # fmt: skip
        return cls(directory, manifest)


def verify(directory: Path, *, tokenizer_hash: str | None = None) -> list[str]:
    """Return everything that is wrong with a store, one clause a problem, each naming its file.

    Args:
        directory: the store.
        tokenizer_hash: the tokenizer that will read it, or None.
    """
    problems = verify_manifest(directory)
    if problems:
        return problems
    try:
        store = TokenStore.open(directory)
        for side, split in (("train", store.train), ("valid", store.valid)):
            if split.n_tokens and int(split.tokens.max()) >= store.vocab_size:
                problems.append(f"{directory / side}.bin: an id lies outside the vocabulary of {store.vocab_size}")
    except (StoreError, KeyError) as error:
        problems.append(str(error))
        return problems
    if tokenizer_hash is not None and store.tokenizer_hash != tokenizer_hash:
        problems.append(
            f"{directory}: made with the tokenizer {store.tokenizer_hash[:12]}, not with {tokenizer_hash[:12]}"
        )
    return problems


def unigram(split: Split) -> np.ndarray:
    """Return how often each id occurs (V,) int64, up to the highest one."""
    counts = np.zeros(0, dtype=np.int64)
    for first in range(0, split.n_tokens, 1 << 24):
        part = np.bincount(split.tokens[first : first + (1 << 24)])
        size = max(len(counts), len(part))
        counts = np.pad(counts, (0, size - len(counts))) + np.pad(part, (0, size - len(part)))
    return counts


def summary(store: TokenStore, top: int = 20) -> dict[str, Any]:
    """Return what ``data stats`` shows: sizes, lengths of documents, the most frequent ids."""
    lengths = np.diff(store.train.bounds)
    counts = unigram(store.train)
    order = np.argsort(counts)[::-1][:top]
    return {
        "train": {"documents": store.train.n_documents, "tokens": store.train.n_tokens, "bytes": store.train.n_bytes},
        "valid": {"documents": store.valid.n_documents, "tokens": store.valid.n_tokens, "bytes": store.valid.n_bytes},
        "bytes_per_token": store.train.n_bytes / max(store.train.n_tokens, 1),
        "vocab_size": store.vocab_size, "ids_used": int((counts > 0).sum()),
        "document_tokens": {f"p{p}": float(np.percentile(lengths, p)) for p in (0, 10, 50, 90, 99, 100)},
        "top": [(int(i), int(counts[i])) for i in order if counts[i] > 0],
        "sources": store.manifest.get("sources", []),
    }  # fmt: skip
