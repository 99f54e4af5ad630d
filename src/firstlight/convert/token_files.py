"""Import token files: make a token store from ids that nanoGPT, llm.c or Megatron-LM prepared.

nanoGPT has raw ids in train.bin and val.bin. llm.c has shards with a header, whose names contain train or val.
Megatron-LM has documents in NAME.bin and NAME.idx, one pair for both splits or one for each.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight import progress
from firstlight.errors import StoreError, UsageError
from firstlight.files import BoundedReader, atomic_directory, storage_errors
from firstlight.store.adopt_megatron import adopt
from firstlight.store.megatron import open_megatron, smallest_dtype, write_index
from firstlight.store.store import TokenStore
from firstlight.types import Encoder

_LLMC_MAGIC, _LLMC_HEADER_BYTES = 20240520, 1024
_SPLITS = {"train": ("train",), "valid": ("val", "valid", "validation", "test")}
_CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The ids of a file, and the offsets at which its documents start, followed by the end of the last."""

    ids: np.ndarray
    bounds: np.ndarray


def _open(path: Path, eot_id: int) -> _Tokens:
    """Memory-map a file: Megatron-LM's pair, llm.c's shard, or raw ids in uint16 as in nanoGPT."""
    if path.with_suffix(".idx").is_file():
        return _Tokens(*open_megatron(path.with_suffix("")))
    file = BoundedReader(path, StoreError)
    if file.remaining >= _LLMC_HEADER_BYTES and file.unpack("2I") == (_LLMC_MAGIC, 1):
        (count,) = file.unpack("I")
        file.offset = _LLMC_HEADER_BYTES
        if file.remaining != 2 * count:
            raise StoreError(
                "its size does not match its header",
                where=path,
                found=f"{file.remaining:,} bytes",
                expected=f"{2 * count:,}",
            )
    else:
        file.offset = 0
    if file.remaining % 2:
        raise StoreError("not a whole number of ids of two bytes", where=path, found=f"{file.size:,} bytes")
    ids = file.read_array(np.dtype("<u2"), (file.remaining // 2,))
    # Raw ids are split into documents after each end-of-text.
    ends = [np.flatnonzero(ids[i : i + _CHUNK_TOKENS] == eot_id) + i + 1 for i in range(0, len(ids), _CHUNK_TOKENS)]
    return _Tokens(ids, np.unique(np.concatenate([[0], *ends, [len(ids)]])))


def recognizes(source: Path) -> bool:
    """Whether a path has token files, and not a model."""
    if source.is_dir():
        return not (source / "config.json").is_file() and any(source.glob("*train*.bin"))
    has_index = source.with_suffix(".idx").is_file() and source.suffix in (".bin", ".idx", "")
    return has_index or (source.suffix == ".bin" and source.stem in ("train", "val"))


def find_files(source: Path) -> dict[str, list[Path]]:
    """Find the files of each split: by their names in a folder; a single file is for training.

    Raises:
        UsageError: there are none for training.
    """
    if source.with_suffix(".bin").is_file() and not source.is_dir():
        return {"train": [source.with_suffix(".bin")], "valid": []}
    files = sorted(source.glob("*.bin")) if source.is_dir() else []
    splits = {
        split: [file for file in files if any(name in file.stem.split("_") for name in names)]
        for split, names in _SPLITS.items()
    }
    if not splits["train"]:
        raise UsageError("no token files for training", where=source, expected="train.bin, or *_train_*.bin")
    return splits


def import_token_files(source: Path, directory: Path, encoder: Encoder, valid_ratio: float) -> TokenStore:
    """Write a token store of the ids that another program prepared.

    Args:
        source: a folder, or a file.
        directory: the folder of the store; new.
        encoder: the tokenizer that the ids are from.
        valid_ratio: fraction of the ids to hold out for validation, if the source has no split: the last documents,
            or the end of the only one.

    Raises:
        UsageError: there are no token files.
        StoreError: files are damaged, or contain ids that the tokenizer does not have.
        StorageError: the disk is full or read-only.
    """
    splits = {split: [_open(file, encoder.eot_id) for file in files] for split, files in find_files(source).items()}
    if not splits["valid"]:
        splits["train"], splits["valid"] = _hold_out(splits["train"], valid_ratio)
    with atomic_directory(directory) as folder, storage_errors(directory):
        for split, parts in splits.items():
            _write(folder, split, parts, encoder.vocab_size)
        adopt(folder, encoder)
    return TokenStore.open(directory)


def _hold_out(parts: list[_Tokens], ratio: float) -> tuple[list[_Tokens], list[_Tokens]]:
    """Split off the last documents, or the end of the only one, for validation."""
    n_valid = sum(len(part.ids) for part in parts) * ratio
    if sum(len(part.bounds) - 1 for part in parts) == 1:
        ids = next(part.ids for part in parts if len(part.ids))
        at = len(ids) - int(n_valid)
        return [_Tokens(ids[:at], np.array([0, at]))], [_Tokens(ids[at:], np.array([0, len(ids) - at]))]
    train, valid = list(parts), list[_Tokens]()
    while n_valid > 0 and train:
        part = train.pop()
        # The very first document stays in the training split.
        first = int(np.searchsorted(part.bounds, part.bounds[-1] - n_valid, side="right")) - 1
        first = max(1 if not train else 0, first)
        at = int(part.bounds[first])
        valid.insert(0, _Tokens(part.ids[at:], part.bounds[first:] - at))
        if first:
            train.append(_Tokens(part.ids[:at], part.bounds[: first + 1]))
            break
        n_valid -= len(part.ids)
    return train, valid


def _write(folder: Path, split: str, parts: list[_Tokens], vocab_size: int) -> None:
    dtype = smallest_dtype(vocab_size)
    total = sum(len(part.ids) for part in parts)
    with progress.task(f"write {split}", total, "token") as task, (folder / f"{split}.bin").open("wb") as file:
        for chunk in (
            part.ids[i : i + _CHUNK_TOKENS] for part in parts for i in range(0, len(part.ids), _CHUNK_TOKENS)
        ):
            if int(chunk.min()) < 0 or int(chunk.max()) >= vocab_size:
                raise StoreError(
                    "contains ids that the tokenizer does not have",
                    where=split,
                    found=f"{chunk.min()} to {chunk.max()}",
                    expected=f"0 to {vocab_size - 1}",
                    fix="Specify the tokenizer that the ids are from.",
                )
            file.write(chunk.astype(dtype).tobytes())
            task.advance(len(chunk))
    lengths = [np.diff(part.bounds) for part in parts]
    write_index(folder / f"{split}.idx", np.concatenate([*lengths, np.zeros(0, np.int64)]).astype(np.int64), dtype)
