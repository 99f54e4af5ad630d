"""Import token files: make a token store from ids that nanoGPT, llm.c or Megatron-LM prepared.

nanoGPT has raw ids in train.bin and val.bin. llm.c has shards with a header, build-nanogpt has them in NumPy's format;
their names contain train or val. Megatron-LM has documents in NAME.bin and NAME.idx, one pair for both splits or one
for each.
"""

import re
from pathlib import Path

import numpy as np

from firstlight import progress
from firstlight.convert.raw_tokens import Tokens, check_ids, common_dtype, open_tokens
from firstlight.errors import UsageError
from firstlight.files import atomic_directory, storage_errors
from firstlight.store.adopt_megatron import adopt
from firstlight.store.megatron import smallest_dtype, write_index
from firstlight.store.store import TokenStore
from firstlight.types import Encoder

_SUFFIXES = (".bin", ".npy")
_SPLITS = {"train": ("train",), "valid": ("val", "valid", "validation", "test")}
_TEST = "test"
_CHUNK_TOKENS = 1 << 22


def recognizes(source: Path) -> bool:
    """Whether a path has token files, and not a model."""
    if source.is_dir():
        return not (source / "config.json").is_file() and any(
            file.suffix in _SUFFIXES and "train" in _splits_of(file) for file in source.iterdir()
        )
    has_index = source.with_suffix(".idx").is_file() and source.suffix in (".bin", ".idx", "")
    is_named = any(split in _words_of(source) for split in ("train", "val"))
    return has_index or (source.suffix in _SUFFIXES and is_named)


def _splits_of(file: Path) -> list[str]:
    """List the splits that a file's name has among its words, such as train in fineweb_train_000001.bin."""
    words = _words_of(file)
    return [split for split, names in _SPLITS.items() if any(name in words for name in names)]


def _words_of(file: Path) -> list[str]:
    return re.split(r"[_.-]", file.stem)


def _token_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("[!.]*")) if file.suffix in _SUFFIXES] if folder.is_dir() else []


def find_files(source: Path) -> dict[str, list[Path]]:
    """Find the files of each split: by their names in a folder; a single file is for training.

    Files with test in their name are for validation where there are no others.

    Raises:
        UsageError: there are none for training, or one is named for both.
    """
    if not source.is_dir():
        file = source if source.suffix in _SUFFIXES else source.with_suffix(".bin")
        if file.is_file():
            return {"train": [file], "valid": []}
    files = _token_files(source)
    splits = {split: [file for file in files if split in _splits_of(file)] for split in _SPLITS}
    both = next((file for file in splits["train"] if file in splits["valid"]), None)
    if both is not None:
        raise UsageError(
            "is named for training and for validation", where=both, fix="Rename it, with one of train and val."
        )
    tests = [file for file in splits["valid"] if _TEST in _words_of(file)]
    if len(tests) < len(splits["valid"]) and tests:
        splits["valid"] = [file for file in splits["valid"] if file not in tests]
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
    found = find_files(source)
    others = [file.name for file in _token_files(source) if not any(file in files for files in found.values())]
    if others:
        progress.notice(f"{source}: left out: {', '.join(others[:4])}{' …' if len(others) > 4 else ''}")
    default = common_dtype([file for files in found.values() for file in files], encoder.vocab_size)
    splits = {split: [open_tokens(file, encoder, dtype, default) for file in files] for split, files in found.items()}
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
