"""Checkpoints: Hugging Face model directories with the state of training in ``trainer/``.

Saving is asynchronous: a step waits only while tensors are copied to CPU memory; a thread then writes, hashes, fsyncs
and renames. The manifest is written last, and a checkpoint without a valid one does not exist.
"""

import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from firstlight import parallel, progress
from firstlight.errors import CheckpointError, FirstlightError, StorageError, TrainingError
from firstlight.files import (
    apply_umask,
    atomic_directory,
    read_json_object,
    remove_stale_files,
    renamed_checkpoint,
    storage_errors,
    verify_manifest,
    write_atomic,
    write_manifest,
)
from firstlight.lm import CARD, without_card
from firstlight.train.log import RunGuard
from firstlight.train.state import Counters, TrainState

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_DAMAGED_NAME = re.compile(r"damaged-step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the training state in CPU memory."""

    step: int
    weights: dict[str, Tensor]
    trainer: dict[str, Tensor]
    rng: dict[str, Tensor]
    trainer_state: dict[str, Any]


def snapshot(
    state: TrainState, device_context: parallel.DeviceContext, compatibility: dict[str, Any]
) -> Snapshot | None:
    """Copy everything that a checkpoint contains to CPU memory; return None in processes other than the first.

    Every process must call it, since each has its own random state.
    """
    rng_states = parallel.all_gather({k: v.tolist() for k, v in parallel.rng_state().items()}, device_context)
    if not parallel.is_main_process(device_context):
        return None
    trainer_state = {
        "format": FORMAT,
        "counters": state.counters.to_json(),
        "scalars": state.scalars(),
        "world_size": device_context.world_size,
        "contract": compatibility,
    }
    return Snapshot(
        state.counters.step,
        _copies(state.weight_format.export(state.model)),
        _copies(state.trainer_tensors()),
        {
            f"{rank}/{k}": torch.tensor(v, dtype=torch.uint8)
            for rank, own in enumerate(rng_states)
            for k, v in own.items()
        },
        json.loads(json.dumps(trainer_state)),
    )


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for k, v in tensors.items()}


class CheckpointManager:
    """The checkpoints of one run; only the first process writes them.

    Args:
        run: the run directory.
        write_model: writes weights (with transformers' names), configuration and tokenizer into a folder.
        keep_last: number of latest checkpoints to keep besides the best one.

    Attributes:
        last_saved_step: step of the checkpoint that was last written or found intact, or None.
    """

    def __init__(self, run: Path, write_model: Callable[[Path, dict[str, Tensor]], None], keep_last: int) -> None:
        self.run = run
        self._guard = RunGuard(run)
        self.folder = run / "checkpoints"
        self.last_saved_step: int | None = None
        self.write_model = write_model
        self._keep_last = keep_last
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot, *, best: bool) -> None:
        """Write a checkpoint in the background, after waiting for the previous one."""
        self.wait()
        self._thread = threading.Thread(target=self._save, args=(snapshot, best), name="checkpoint")
        self._thread.start()

    def wait(self, *, raise_errors: bool = False) -> None:
        """Wait for the current save; if it could not be written, warn or raise.

        Raises:
            StorageError: the save failed, and ``raise_errors`` is set.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, OSError | SafetensorError):  # safetensors reports errors of the system as text
            cause, error = error, StorageError(f"a checkpoint could not be written: {error}", where=self.folder)
            error.__cause__ = cause
        if raise_errors or isinstance(error, TrainingError) or not isinstance(error, FirstlightError):
            raise error
        progress.warn(f"a checkpoint could not be written; training continues, with the previous one on disk: {error}")

    def _save(self, snapshot: Snapshot, best: bool) -> None:
        try:
            self.write(snapshot, best=best)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error

    def write(self, snapshot: Snapshot, *, best: bool) -> Path:
        """Write a checkpoint now, update the files ``latest`` and ``best``, and remove old checkpoints.

        None is removed during a loss spike: a rollback needs those from before.
        """
        self._guard.check()
        name = _name(snapshot.step)
        with atomic_directory(self.folder / name) as folder, storage_errors(self.folder / name):
            self.write_model(folder, snapshot.weights)
            trainer = folder / "trainer"
            trainer.mkdir()
            for file_name, tensors in (("optimizer", snapshot.trainer), ("random", snapshot.rng)):
                save_file(tensors, trainer / f"{file_name}.safetensors")
                apply_umask(trainer / f"{file_name}.safetensors")
            write_atomic(trainer / "state.json", json.dumps(snapshot.trainer_state, indent=1))
            # People edit the model card, before they share the model.
            write_manifest(folder, {"format": FORMAT, "step": snapshot.step}, exclude={CARD})
        write_atomic(self.run / "latest", name + "\n")
        if best:
            write_atomic(self.run / "best", name + "\n")
        self.last_saved_step = snapshot.step  # with its pointers: otherwise the last save is repeated
        if not snapshot.trainer_state["counters"]["spiking"]:
            self._prune()
        return self.folder / name

    def _prune(self) -> None:
        latest = self.all()[-self._keep_last :]
        keep = {p.name for p in latest} | {self.read_pointer("best")}
        for path in self.all():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)
        # A damaged checkpoint goes when it would have gone intact.
        for path in self.folder.iterdir():
            match = _DAMAGED_NAME.fullmatch(path.name)
            if match and path.is_dir() and int(match[1]) < _step(latest[0]):
                shutil.rmtree(path, ignore_errors=True)

    def read_pointer(self, name: str) -> str | None:
        """Return the name of the checkpoint in the file ``latest`` or ``best``."""
        file = self.run / name
        text = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
        return text if _NAME.fullmatch(text) else None

    def all(self) -> list[Path]:
        """Return the checkpoint folders in order of their steps."""
        if not self.folder.is_dir():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), key=_step)

    def find_latest(self, device_context: parallel.DeviceContext, *, before_spike: bool = False) -> Path | None:
        """Return the latest checkpoint whose manifest and checksums are valid; rename damaged ones, with a warning.

        Every process must call it; the first one checks and broadcasts the result. The files ``latest`` and ``best``
        are set to what that checkpoint records, in case a process was killed before it could write them.

        Args:
            device_context: the processes.
            before_spike: ignore and delete checkpoints that were written during a loss spike, for a rollback.
        """
        name = self._find_latest(before_spike) if parallel.is_main_process(device_context) else None
        name = parallel.broadcast_object(name, device_context)
        return None if name is None else self.folder / name

    def _find_latest(self, before_spike: bool) -> str | None:
        remove_stale_files(self.folder)
        for path in reversed(self.all()):
            misnamed = renamed_checkpoint(path)
            if misnamed is not None:  # moving it aside would lose its steps
                raise CheckpointError(misnamed)
            problems = without_card(verify_manifest(path), path)
            if not problems and not (before_spike and read_trainer_state(path)["counters"].get("spiking")):
                self._set_pointers(path)
                return path.name
            for pointer in ("latest", "best"):
                if self.read_pointer(pointer) == path.name:
                    (self.run / pointer).unlink()
            if not problems:
                shutil.rmtree(path)
                continue
            renamed = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(renamed, ignore_errors=True)
            path.rename(renamed)
            progress.warn(
                f"checkpoint {path.name} is damaged and is ignored ({problems[0]}); it is kept as {renamed.name}"
            )
        return None

    def _set_pointers(self, path: Path) -> None:
        self.last_saved_step = _step(path)
        best_step = read_trainer_state(path)["counters"].get("best_step")
        best = None if best_step is None else _name(best_step)
        for pointer, name in (("latest", path.name), ("best", best)):
            if name is not None and (self.folder / name).is_dir() and self.read_pointer(pointer) != name:
                write_atomic(self.run / pointer, name + "\n")


def read_trainer_state(checkpoint: Path) -> dict[str, Any]:
    """Read ``trainer/state.json`` of a checkpoint.

    Raises:
        CheckpointError: missing, unreadable, or of another format.
    """
    path = checkpoint / "trainer" / "state.json"
    try:
        table = read_json_object(path, CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(
            "has no training state, so training cannot be resumed from it",
            where=checkpoint,
            fix="Start a new run from its weights with --from.",
        ) from error
    found = table.get("format")
    if found != FORMAT:
        raise CheckpointError(
            "has another format",
            where=path,
            found=found,
            expected=FORMAT,
            fix="Resume with the version of Firstlight that wrote it, or start a new run from its weights with --from.",
        )
    return table


def restore(checkpoint: Path, state: TrainState, device_context: parallel.DeviceContext) -> dict[str, Any]:
    """Load a checkpoint's weights, optimizer state, counters and random states; return ``trainer/state.json``.

    Raises:
        CheckpointError: something in it does not match the model or the optimizer.
    """
    table = read_trainer_state(checkpoint)
    try:
        state.weight_format.load(state.model, checkpoint)
        trainer = load_file(checkpoint / "trainer" / "optimizer.safetensors")
        rng = load_file(checkpoint / "trainer" / "random.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=checkpoint) from error
    state.load_trainer_tensors(trainer)
    state.load_scalars(table["scalars"])
    state.counters = Counters.from_json(table["counters"])
    if table["world_size"] == device_context.world_size:
        prefix = f"{device_context.rank}/"
        parallel.set_rng_state({k.removeprefix(prefix): v for k, v in rng.items() if k.startswith(prefix)})
    elif parallel.is_main_process(device_context):
        progress.warn(
            f"the number of processes was {table['world_size']} and is now {device_context.world_size}: "
            "data and batches are the same, but the result is not bit-identical"
        )
    return table


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
