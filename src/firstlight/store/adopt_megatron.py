"""Turn a dataset that another program wrote in Megatron-LM's format into a token store, by adding a manifest."""

import hashlib
import json
from pathlib import Path

import numpy as np

from firstlight import progress
from firstlight.errors import StoreError
from firstlight.files import MANIFEST, sha256, write_manifest
from firstlight.store.megatron import open_megatron
from firstlight.store.store import FORMAT, TokenStore
from firstlight.store.verification import open_store, remember
from firstlight.types import Encoder, UnknownText

_CHUNK = 1 << 22


def adopt(directory: Path, encoder: Encoder, *, verify: bool = True, name: str | None = None) -> TokenStore:
    """Write the manifest of a folder with ``train.bin|idx`` and ``valid.bin|idx``; a complete store is only opened.

    Args:
        directory: the folder; its files are not changed.
        encoder: the tokenizer that made the ids.
        verify: read every byte of a complete store; see ``open_store``. New ones are always read.
        name: of the source in the manifest; by default the folder.

    Raises:
        StoreError: files are missing or damaged, or hold ids that the tokenizer does not have.
        CompatibilityError: the folder is a store made with another tokenizer.
        StorageError: the folder cannot be written.
    """
    if (directory / MANIFEST).is_file():
        return open_store(directory, tokenizer_hash=encoder.hash, verify=verify)
    byte_lengths = encoder.byte_lengths().astype(np.int64)
    counts: dict[str, object] = {}
    source: dict[str, object] = {"name": name or str(directory)}
    ends = 0
    for side in ("train", "valid"):
        ids, bounds = open_megatron(directory / side)
        n_bytes = n_unknown = 0
        for first in range(0, len(ids), _CHUNK):
            part = ids[first : first + _CHUNK]
            if int(part.min()) < 0 or int(part.max()) >= encoder.vocab_size:
                raise StoreError(
                    "has ids that the tokenizer does not have",
                    where=directory / f"{side}.bin",
                    found=f"{part.min()} to {part.max()}",
                    expected=f"0 to {encoder.vocab_size - 1}",
                    fix="Specify the tokenizer that made it.",
                )
            n_bytes += int(byte_lengths[part].sum())
            n_unknown += 0 if encoder.unknown_id is None else int((part == encoder.unknown_id).sum())
            ends += int((part == encoder.eot_id).sum())
        if len(ids) < 2:
            raise StoreError(
                "holds too little text", where=Path(name or directory) / f"{side}.bin", found=f"{len(ids)} tokens"
            )
        counts |= {f"{side}_tokens": len(ids), f"{side}_documents": len(bounds) - 1, f"{side}_bytes": n_bytes}
        # The text is not there, so nobody knows how many bytes its unknown tokens stand for, or what was left out.
        is_known = n_unknown == 0 and (encoder.unknown_id is not None or not encoder.has_unknown)
        unknown = UnknownText(n_unknown, 0 if is_known else None)
        counts |= {f"{side}_{name}": value for name, value in unknown.to_json(len(ids)).items()}
        source[side] = {
            "first_token": 0,
            "tokens": len(ids),
            "first_document": 0,
            "documents": len(bounds) - 1,
            "bytes": n_bytes,
        }
    if ends == 0:
        progress.warn(f"{name or directory}: no end-of-text between documents, so a model will not learn to end a text")
    files = {p.name: sha256(p) for side in ("train", "valid") for p in sorted(directory.glob(f"{side}.*"))}
    made_from = {"format": FORMAT, "tokenizer": encoder.hash, "files": files}
    write_manifest(
        directory,
        {
            "format": FORMAT,
            "fingerprint": hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest(),
            "tokenizer": encoder.hash,
            "vocab_size": encoder.vocab_size,
            "eot_id": encoder.eot_id,
            "dtype": ids.dtype.name,
            **counts,
            "made_from": made_from,
            "sources": [source],
        },
    )
    store = TokenStore.open(directory)
    remember(store)
    return store
