"""A token store from ids that another program wrote without our split: nanoGPT's train.bin, llm.c's shards, Megatron's.

What other programs keep: nanoGPT has bare ids in train.bin and val.bin; llm.c a header and bare ids in each shard,
whose names hold train or val; Megatron-LM documents in NAME.bin and NAME.idx, a pair for both splits or one for each.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight import progress
from firstlight.errors import StoreError, UsageError
from firstlight.files import BoundedReader, atomic_directory, storage_errors
from firstlight.store.adopt_megatron import adopt
from firstlight.store.megatron import dtype_for, open_ids, write_index
from firstlight.store.store import TokenStore
from firstlight.types import Encoder

_LLMC, _LLMC_HEADER = 20240520, 1024
_SIDES = {"train": ("train",), "valid": ("val", "valid", "validation", "test")}
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class _Part:
    """Ids in a file, and where its documents begin, with the end as last entry."""

    ids: np.ndarray
    bounds: np.ndarray


def _part(path: Path, eot_id: int) -> _Part:
    """Map a file: Megatron-LM's pair, llm.c's shard, or bare ids in uint16 as nanoGPT has them."""
    if path.with_suffix(".idx").is_file():
        return _Part(*open_ids(path.with_suffix("")))
    file = BoundedReader(path, StoreError)
    if file.remaining >= _LLMC_HEADER and file.unpack("2I") == (_LLMC, 1):
        (count,) = file.unpack("I")
        file.offset = _LLMC_HEADER
        if file.remaining != 2 * count:
            raise StoreError(
                "is truncated or too long", where=path, found=f"{file.remaining:,} bytes", expected=f"{2 * count:,}"
            )
    else:
        file.offset = 0
    if file.remaining % 2:
        raise StoreError("holds half an id at its end", where=path, found=f"{file.size:,} bytes")
    ids = file.read_array(np.dtype("<u2"), (file.remaining // 2,))
    # Bare ids are cut into documents behind each end-of-text.
    ends = [np.flatnonzero(ids[i : i + _CHUNK] == eot_id) + i + 1 for i in range(0, len(ids), _CHUNK)]
    return _Part(ids, np.unique(np.concatenate([[0], *ends, [len(ids)]])))


def files_of(source: Path) -> dict[str, list[Path]]:
    """Return the files of each split: of a folder by their names; a single file is all for training.

    Raises:
        UsageError: nothing of that kind is there.
    """
    if source.with_suffix(".bin").is_file() and not source.is_dir():
        return {"train": [source.with_suffix(".bin")], "valid": []}
    files = sorted(source.glob("*.bin")) if source.is_dir() else []
    found = {
        side: [file for file in files if any(name in file.stem.split("_") for name in names)]
        for side, names in _SIDES.items()
    }
    if not found["train"]:
        raise UsageError("holds no ids for training", where=source, expected="train.bin, or *_train_*.bin")
    return found


def collect(source: Path, directory: Path, encoder: Encoder, valid_ratio: float) -> TokenStore:
    """Write a token store of what another program prepared.

    Where there is no split of its own, about the last ``valid_ratio`` of the documents, or of the only one, becomes
    valid.

    Args:
        source: a folder, or a file.
        directory: the store's folder; new.
        encoder: the tokenizer that made the ids.
        valid_ratio: see above.

    Raises:
        UsageError: nothing to read.
        StoreError: files are damaged, or hold ids that the tokenizer does not have.
        StorageError: the disk is full or read-only.
    """
    found = files_of(source)
    parts = {side: [_part(file, encoder.eot_id) for file in files] for side, files in found.items()}
    if not parts["valid"]:
        parts["train"], parts["valid"] = _split(parts["train"], valid_ratio)
    with atomic_directory(directory) as folder, storage_errors(directory):
        for side, held in parts.items():
            _write(folder, side, held, encoder.vocab_size)
        adopt(folder, encoder)
    return TokenStore.open(directory)


def _split(parts: list[_Part], ratio: float) -> tuple[list[_Part], list[_Part]]:
    """Hold out the last documents, or the end of the only one."""
    wanted = sum(len(part.ids) for part in parts) * ratio
    if sum(len(part.bounds) - 1 for part in parts) == 1:
        ids = next(part.ids for part in parts if len(part.ids))
        at = len(ids) - int(wanted)
        return [_Part(ids[:at], np.array([0, at]))], [_Part(ids[at:], np.array([0, len(ids) - at]))]
    kept, held = list(parts), list[_Part]()
    while wanted > 0 and kept:
        part = kept.pop()
        # The first document of all stays for training.
        first = max(1 if not kept else 0, int(np.searchsorted(part.bounds, part.bounds[-1] - wanted, side="right")) - 1)
        at = int(part.bounds[first])
        held.insert(0, _Part(part.ids[at:], part.bounds[first:] - at))
        if first:
            kept.append(_Part(part.ids[:at], part.bounds[: first + 1]))
            break
        wanted -= len(part.ids)
    return kept, held


def _write(folder: Path, side: str, parts: list[_Part], vocab_size: int) -> None:
    dtype = dtype_for(vocab_size)
    total = sum(len(part.ids) for part in parts)
    with progress.task(f"write {side}", total, "token") as task, (folder / f"{side}.bin").open("wb") as file:
        for chunk in (part.ids[i : i + _CHUNK] for part in parts for i in range(0, len(part.ids), _CHUNK)):
            if int(chunk.min()) < 0 or int(chunk.max()) >= vocab_size:
                raise StoreError(
                    "holds ids that the tokenizer does not have",
                    where=side,
                    found=f"{chunk.min()} to {chunk.max()}",
                    expected=f"0 to {vocab_size - 1}",
                    fix="Name the tokenizer that made it.",
                )
            file.write(chunk.astype(dtype).tobytes())
            task.advance(len(chunk))
    lengths = [np.diff(part.bounds) for part in parts]
    write_index(folder / f"{side}.idx", np.concatenate([*lengths, np.zeros(0, np.int64)]).astype(np.int64), dtype)
