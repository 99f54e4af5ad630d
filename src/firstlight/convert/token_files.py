"""Import token files: make a token store from ids that nanoGPT, llm.c or Megatron-LM prepared.

nanoGPT has raw ids in train.bin and val.bin. llm.c has shards with a header, build-nanogpt has them in NumPy's format;
their names contain train or val. Megatron-LM has documents in NAME.bin and NAME.idx, one pair for both splits or one
for each.
"""

import re
from pathlib import Path

import numpy as np

from firstlight import progress
from firstlight.convert.raw_tokens import Tokens, check_ids, open_tokens
from firstlight.errors import UsageError
from firstlight.files import atomic_directory, storage_errors
from firstlight.store.adopt_megatron import adopt
from firstlight.store.megatron import smallest_dtype, write_index
from firstlight.store.store import TokenStore
from firstlight.types import Encoder

_SUFFIXES = (".bin", ".npy")
_SPLITS = {"train": ("train",), "valid": ("val", "valid", "validation", "test")}
_CHUNK_TOKENS = 1 << 22


def recognizes(source: Path) -> bool:
    """Whether a path has token files, and not a model."""
    if source.is_dir():
        return not (source / "config.json").is_file() and any(
            file.suffix in _SUFFIXES and "train" in _splits_of(file) for file in source.iterdir()
        )
    has_index = source.with_suffix(".idx").is_file() and source.suffix in (".bin", ".idx", "")
    is_named = any(split in re.split(r"[_.-]", source.stem) for split in ("train", "val"))
    return has_index or (source.suffix in _SUFFIXES and is_named)


def _splits_of(file: Path) -> list[str]:
    """List the splits that a file's name has among its words, such as train in fineweb_train_000001.bin."""
    words = re.split(r"[_.-]", file.stem)
    return [split for split, names in _SPLITS.items() if any(name in words for name in names)]


def find_files(source: Path) -> dict[str, list[Path]]:
    """Find the files of each split: by their names in a folder; a single file is for training.

    Raises:
        UsageError: there are none for training.
    """
    if not source.is_dir():
        file = source if source.suffix in _SUFFIXES else source.with_suffix(".bin")
        if file.is_file():
            return {"train": [file], "valid": []}
    files = sorted(file for file in source.glob("*") if file.suffix in _SUFFIXES) if source.is_dir() else []
    splits = {split: [file for file in files if split in _splits_of(file)] for split in _SPLITS}
    if not splits["train"]:
        raise UsageError("no token files for training", where=source, expected="train.bin, or *_train_*.bin")
    return splits


def import_token_files(
    source: Path, directory: Path, encoder: Encoder, valid_ratio: float, dtype: str | None = None
) -> TokenStore:
    """Write a token store of the ids that another program prepared.

    Args:
        source: a folder, or a file.
        directory: the folder of the store; new.
        encoder: the tokenizer that the ids are from.
        valid_ratio: fraction of the ids to hold out for validation, if the source has no split: the last documents,
            or the end of the only one.
        dtype: type of raw ids, one of ``raw_tokens.DTYPES``; by default that of the tokenizer's number of ids.

    Raises:
        UsageError: there are no token files.
        StoreError: files are damaged, or contain ids that the tokenizer does not have.
        StorageError: the disk is full or read-only.
    """
    splits = {
        split: [open_tokens(file, encoder, dtype) for file in files] for split, files in find_files(source).items()
    }
    if not splits["valid"]:
        splits["train"], splits["valid"] = _hold_out(splits["train"], valid_ratio)
    with atomic_directory(directory) as folder, storage_errors(directory):
        for split, parts in splits.items():
            _write(folder, split, parts, encoder.vocab_size)
        adopt(folder, encoder, name=str(source))
    return TokenStore.open(directory)


def _hold_out(parts: list[Tokens], ratio: float) -> tuple[list[Tokens], list[Tokens]]:
    """Split off the last documents, or the end of the only one, for validation."""
    n_valid = sum(len(part.ids) for part in parts) * ratio
    if sum(len(part.bounds) - 1 for part in parts) == 1:
        only = next(part for part in parts if len(part.ids))
        first, last = only.cut(len(only.ids) - int(n_valid))
        return [first], [last]
    train, valid = list(parts), list[Tokens]()
    while n_valid > 0 and train:
        part = train.pop()
        # The very first document stays in the training split.
        first_document = int(np.searchsorted(part.bounds, part.bounds[-1] - n_valid, side="right")) - 1
        first_document = max(1 if not train else 0, first_document)
        valid.insert(0, part.part(first_document, len(part.bounds) - 1))
        if first_document:
            train.append(part.part(0, first_document))
            break
        n_valid -= len(part.ids)
    return train, valid


def _write(folder: Path, split: str, parts: list[Tokens], vocab_size: int) -> None:
    dtype = smallest_dtype(vocab_size)
    total = sum(len(part.ids) for part in parts)
    with progress.task(f"write {split}", total, "token") as task, (folder / f"{split}.bin").open("wb") as file:
        for part in parts:
            for i in range(0, len(part.ids), _CHUNK_TOKENS):
                chunk = part.ids[i : i + _CHUNK_TOKENS]
                check_ids(part, i, chunk, vocab_size)
                file.write(chunk.astype(dtype).tobytes())
                task.advance(len(chunk))
    lengths = [np.diff(part.bounds) for part in parts]
    write_index(folder / f"{split}.idx", np.concatenate([*lengths, np.zeros(0, np.int64)]).astype(np.int64), dtype)
