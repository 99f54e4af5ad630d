"""The encoded rows of a run's tasks on disk, so that the run is resumed without the files that they were read from.

A folder has two files per task: NAME.safetensors with the rows of each split as flat arrays and their lengths, and
NAME.json with the task as it was completed by its rows. The manifest has checksums of all.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from firstlight.config import validate
from firstlight.errors import CheckpointError, ConfigError
from firstlight.files import (
    apply_umask,
    atomic_directory,
    read_json_object,
    verify_manifest,
    write_atomic,
    write_manifest,
)
from firstlight.finetuning.examples import EncodedExample, Label
from firstlight.finetuning.preprocess import EncodedTask
from firstlight.finetuning.spec import TaskSpec
from firstlight.types import UnknownText

_SPLITS = ("train", "valid", "test")
_NO_LABEL, _INTEGER, _FLOAT, _INTEGERS = range(4)


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """A task whose rows are encoded.

    Attributes:
        spec: with the labels, or the scale, of the training rows.
        rows: of each split.
        notes: remarks about the data, for people.
        fingerprint: of everything that decides the rows (``TaskData``).
    """

    spec: TaskSpec
    rows: EncodedTask
    notes: list[str]
    fingerprint: str


def save_rows(folder: Path, tasks: Iterable[PreparedTask], tokenizer_hash: str) -> None:
    """Write the rows of a run's tasks.

    Args:
        folder: of the rows; replaced as a whole.
        tasks: of the run.
        tokenizer_hash: of the tokenizer that the rows were encoded with.

    Raises:
        StorageError: the disk is full or read-only.
    """
    with atomic_directory(folder) as temporary:
        for task in tasks:
            arrays = {
                f"{split}.{name}": array
                for split in _SPLITS
                for name, array in _to_arrays(task.rows.split(split)).items()
            }
            file = temporary / f"{task.spec.name}.safetensors"
            save_file(arrays, file)
            apply_umask(file)
            table = {
                "spec": task.spec.model_dump(mode="json"),
                "notes": task.notes,
                "row_notes": task.rows.notes,
                "unknown": asdict(task.rows.unknown),
                "n_tokens": task.rows.n_tokens,
                "n_bytes": task.rows.n_bytes,
                "fingerprint": task.fingerprint,
                "tokenizer": tokenizer_hash,
            }
            write_atomic(temporary / f"{task.spec.name}.json", json.dumps(table, indent=1) + "\n")
        write_manifest(temporary)


def read_rows(folder: Path, names: Sequence[str], tokenizer_hash: str) -> dict[str, PreparedTask]:
    """Read the rows of a run's tasks.

    Args:
        folder: of the rows.
        names: of the tasks.
        tokenizer_hash: of the run's tokenizer.

    Raises:
        CheckpointError: a file is missing or damaged, or the rows were encoded with another tokenizer.
    """
    if problems := verify_manifest(folder):
        raise CheckpointError(problems[0])
    return {name: _read_task(folder, name, tokenizer_hash) for name in names}


def _read_task(folder: Path, name: str, tokenizer_hash: str) -> PreparedTask:
    file = folder / f"{name}.json"
    try:
        table = read_json_object(file, CheckpointError)
        arrays = load_file(folder / f"{name}.safetensors")
        splits = {split: list(_from_arrays(arrays, split)) for split in _SPLITS}
        rows = EncodedTask(
            **splits,
            notes=list(table["row_notes"]),
            unknown=TypeAdapter(UnknownText).validate_python(table["unknown"]),
            n_tokens=int(table["n_tokens"]),
            n_bytes=int(table["n_bytes"]),
        )
        spec = validate(TaskSpec, {"pool": "last", **table["spec"]})  # which earlier versions do not say
        task = PreparedTask(spec, rows, list(table["notes"]), str(table["fingerprint"]))
        found = table["tokenizer"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=file) from error
    if found != tokenizer_hash:
        raise CheckpointError(
            "was encoded with another tokenizer", where=file, found=str(found)[:12], expected=tokenizer_hash[:12]
        )
    return task


def _to_arrays(rows: Sequence[EncodedExample]) -> dict[str, np.ndarray]:
    labels = [row.label for row in rows]
    integers = [_integers(label) for label in labels]
    places = [row.where.encode("utf-8", "surrogateescape") for row in rows]
    sequences = [sequence for row in rows for sequence in row.sequences]
    return {
        "ids": np.concatenate([np.zeros(0, np.int32), *sequences]).astype(np.int32),
        "ids_per_sequence": _lengths(sequences),
        "sequences_per_row": _lengths([row.sequences for row in rows]),
        **_flat("positions", [row.positions for row in rows], np.int32),
        **_flat("loss_mask", [row.loss_mask for row in rows], np.uint8),
        **_flat("choices", [row.choices for row in rows], np.int32),
        **_flat("integers", integers, np.int64),
        "floats": np.array([x if isinstance(x, float) else 0.0 for x in labels], np.float64),
        "kinds": np.array([_kind(label) for label in labels], np.uint8),
        "where": np.frombuffer(b"".join(places), np.uint8),
        "where_per_row": _lengths(places),
    }


def _flat(name: str, values: Sequence[Sequence[int]], dtype: type) -> dict[str, np.ndarray]:
    return {name: np.array([x for row in values for x in row], dtype), f"{name}_per_row": _lengths(values)}


def _lengths(values: Sequence[Any]) -> np.ndarray:
    return np.array([len(value) for value in values], np.int64)


def _kind(label: Label) -> int:
    if label is None:
        return _NO_LABEL
    return _INTEGERS if isinstance(label, tuple) else _FLOAT if isinstance(label, float) else _INTEGER


def _integers(label: Label) -> Sequence[int]:
    if label is None or isinstance(label, float):
        return ()
    return label if isinstance(label, tuple) else (label,)


def _from_arrays(arrays: dict[str, np.ndarray], split: str) -> Iterable[EncodedExample]:
    def parts(name: str, lengths: str) -> list[np.ndarray]:
        ends = np.cumsum(arrays[f"{split}.{lengths}"])
        return np.split(arrays[f"{split}.{name}"], ends[:-1]) if len(ends) else []

    def values(name: str) -> list[tuple[int, ...]]:
        return [tuple(part.tolist()) for part in parts(name, f"{name}_per_row")]

    sequences = iter(parts("ids", "ids_per_sequence"))
    floats = arrays[f"{split}.floats"].tolist()
    for n, positions, mask, choices, integers, number, kind, where in zip(
        arrays[f"{split}.sequences_per_row"].tolist(),
        values("positions"),
        values("loss_mask"),
        values("choices"),
        values("integers"),
        floats,
        arrays[f"{split}.kinds"].tolist(),
        parts("where", "where_per_row"),
        strict=True,
    ):
        label: Label = {_NO_LABEL: None, _FLOAT: number, _INTEGERS: integers}.get(kind)
        if kind == _INTEGER:
            (label,) = integers
        yield EncodedExample(
            sequences=tuple(next(sequences) for _ in range(n)),
            positions=positions,
            label=label,
            where=where.tobytes().decode("utf-8", "surrogateescape"),
            loss_mask=tuple(map(bool, mask)),
            choices=choices,
        )
