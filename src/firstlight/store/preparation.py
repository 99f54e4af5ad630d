"""The folder in which a store is prepared, from which an interrupted preparation goes on.

It has a stable name next to the store, ``.firstlight-prepare-NAME``, and one process at a time writes into it. Below
``progress/`` are a lock, ``state.json``, and the lengths and names of the documents written so far, in segments that
are written once. A state refers to bytes and segments that do not change until the next state is written.
"""

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from firstlight import progress
from firstlight.errors import StorageError, StoreError, UsageError
from firstlight.files import (
    MANIFEST,
    NO_LOCKS,
    is_temporary,
    publish_directory,
    remove_stale_files,
    storage_errors,
    verify_manifest,
    write_atomic,
)
from firstlight.store.store import NAMES_FILE

PROGRESS = "progress"
TOKENIZER = "tokenizer"
STORE_FILES = frozenset({"train.bin", "train.idx", "valid.bin", "valid.idx", NAMES_FILE, MANIFEST})
_STATE = "state.json"


def preparation_folder(store: Path) -> Path:
    """Return the folder in which a store is prepared."""
    return store.with_name(f".firstlight-prepare-{store.name}")


def discard_preparation(store: Path) -> None:
    """Remove the folder in which a store is prepared, unless a preparation can go on from it."""
    folder = preparation_folder(store)
    if not (folder / PROGRESS / _STATE).is_file():
        shutil.rmtree(folder, ignore_errors=True)


class Preparation:
    """A preparation in progress; a context manager that holds the lock of its folder.

    The folder is kept for the next attempt where the process is killed or interrupted, or the disk fails after a state
    was saved; after other errors it is removed.

    Args:
        store: the folder of the store.
        inputs: everything that determines its bytes; a preparation from others is started again.

    Attributes:
        folder: where the store's files are written.
        state: of the interrupted preparation, or None.

    Raises:
        UsageError: another process prepares this store.
        StoreError: the folder holds files of somebody else.
    """

    def __init__(self, store: Path, inputs: dict[str, Any]) -> None:
        self.store, self.folder = store, preparation_folder(store)
        self.state: dict[str, Any] | None = None
        self._inputs: dict[str, Any] = json.loads(json.dumps(inputs))
        self._progress = self.folder / PROGRESS
        self._lock = FileLock(self._progress / "lock", timeout=0)

    def __enter__(self) -> Self:
        with storage_errors(self.store):
            _check_folder(self.folder)
            self._progress.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout as error:
                raise UsageError(
                    "is being prepared by another process",
                    where=self.store,
                    fix="Wait for it, or choose another --out.",
                ) from error
            except (OSError, NotImplementedError) as error:
                if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                    raise
                progress.warn(
                    f"{self.store}: the file system has no locks, so no other process may prepare this store meanwhile"
                )
            for folder in (self.folder, self._progress, self.folder / TOKENIZER):
                remove_stale_files(folder)
            self.state = self._read_state()
            if self.state is None and not self.is_complete:
                self._clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if error is None:
            return
        has_state = (self._progress / _STATE).is_file()
        interrupted = not isinstance(error, Exception)
        if (
            has_state
            and (interrupted or isinstance(error, StorageError | OSError))
            or interrupted
            and (self.folder / TOKENIZER).is_dir()
        ):
            progress.notice(f"{self.store}: what is prepared so far is kept; run the same command again to resume")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_complete(self) -> bool:
        """Whether every file is written and only the renaming is left."""
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            same = all(manifest.get(key) == value for key, value in self._inputs.items())
        except (OSError, ValueError, AttributeError):
            return False
        return same and not verify_manifest(self.folder, contents=False)

    def save(self, state: dict[str, Any], segment: dict[str, np.ndarray], kept: int) -> None:
        """Save a state, with the documents since the last one.

        Args:
            state: JSON.
            segment: the lengths and names of those documents.
            kept: number of earlier segments that still hold.
        """
        before = self.state or {"segments": [], "next": 0}
        name = f"{before['next']:06d}.safetensors"
        write_atomic(self._progress / name, save(segment))
        segments = [*before["segments"][:kept], name]
        self.state = {**state, "inputs": self._inputs, "segments": segments, "next": before["next"] + 1}
        write_atomic(self._progress / _STATE, json.dumps(self.state))
        for dropped in before["segments"][kept:]:
            (self._progress / dropped).unlink(missing_ok=True)

    def segments(self) -> list[dict[str, np.ndarray]]:
        """Read the segments of the state."""
        return [load_file(self._progress / name) for name in (self.state or {}).get("segments", [])]

    def publish(self) -> None:
        """Rename the folder to that of the store."""
        with storage_errors(self.store):
            self._lock.release()
            shutil.rmtree(self._progress)
            publish_directory(self.folder, self.store)

    def start_again(self, reason: str) -> None:
        """Discard what an interrupted preparation has written."""
        progress.notice(f"{self.store}: an interrupted preparation {reason} and is started again")
        self._clear()

    def _read_state(self) -> dict[str, Any] | None:
        path = self._progress / _STATE
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            inputs = state["inputs"]
        except (ValueError, KeyError, TypeError):
            self.start_again("cannot be read")
            return None
        if inputs != self._inputs:
            self.start_again("was made from other inputs")
            return None
        try:
            self.state = state
            self.segments()
            whole = all((self.folder / name).stat().st_size >= size for name, size in state["sizes"].items())
        except (OSError, SafetensorError):
            whole = False
        if not whole:
            self.start_again("cannot be read")
        return self.state

    def _clear(self) -> None:
        """Remove everything but the lock and the tokenizer."""
        self.state = None
        for path in self.folder.iterdir():
            if path.name in STORE_FILES:
                path.unlink()
        for path in self._progress.iterdir():
            if path.name != "lock":
                path.unlink()


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds what no preparation writes."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in STORE_FILES | {PROGRESS, TOKENIZER} and not is_temporary(path.name):
            raise StoreError(
                "is not from an interrupted preparation", where=folder, found=path.name, fix="Move that folder away."
            )
