"""Checkpoints: ordinary Hugging Face model directories, with ``trainer/`` and a manifest written last.

Saving is off the critical path: the step is held up only while tensors are copied; one thread then
writes, hashes, fsyncs and renames. A checkpoint without a valid manifest does not exist.
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
from firstlight.errors import CheckpointError, FirstlightError, StorageError
from firstlight.files import (
    apply_umask,
    atomic_directory,
    remove_stale_files,
    storage_errors,
    verify_manifest,
    write_atomic,
    write_manifest,
)
from firstlight.train.state import Counters, TrainState

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the training state that no later step can change."""

    step: int
    weights: dict[str, Tensor]
    trainer: dict[str, Tensor]
    random: dict[str, Tensor]
    table: dict[str, Any]


def snapshot(
    state: TrainState, device_context: parallel.DeviceContext, compatibility: dict[str, Any]
) -> Snapshot | None:
    """Copy all that a checkpoint holds to CPU memory; None in processes other than the first.

    Every process calls it, since each has its own random state.
    """
    states = parallel.all_gather({k: v.tolist() for k, v in parallel.rng_state().items()}, device_context)
    if not parallel.is_main_process(device_context):
        return None
    table = {
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
        {f"{rank}/{k}": torch.tensor(v, dtype=torch.uint8) for rank, own in enumerate(states) for k, v in own.items()},
        json.loads(json.dumps(table)),
    )


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for k, v in tensors.items()}


class CheckpointManager:
    """The checkpoints of one run; only the first process writes them.

    Args:
        run: the run directory.
        write_model: writes weights (in transformers' names), configuration and tokenizer into a folder.
        keep_last: newest checkpoints kept beside the best.

    Attributes:
        written: step of the checkpoint that was last written or found whole, or None.
    """

    def __init__(self, run: Path, write_model: Callable[[Path, dict[str, Tensor]], None], keep_last: int) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.written: int | None = None
        self.write_model = write_model
        self._keep_last = keep_last
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, snap: Snapshot, *, best: bool) -> None:
        """Write ``snap`` in the background; a save still under way is waited for first."""
        self.wait()
        self._thread = threading.Thread(target=self._work, args=(snap, best), name="checkpoint")
        self._thread.start()

    def wait(self, *, must: bool = False) -> None:
        """Wait for the save under way; where the disk failed it, warn, or with ``must`` raise.

        Raises:
            StorageError: the save failed and ``must`` is set.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, OSError | SafetensorError):  # safetensors gives the system's refusals as text
            cause, error = error, StorageError(f"a checkpoint could not be written: {error}", where=self.folder)
            error.__cause__ = cause
        if must or not isinstance(error, FirstlightError):
            raise error
        progress.warn(f"a checkpoint could not be written; the run goes on with the previous one: {error}")

    def _work(self, snap: Snapshot, best: bool) -> None:
        try:
            self.write(snap, best=best)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._error = error

    def write(self, snap: Snapshot, *, best: bool) -> Path:
        """Write ``snap`` now; point ``latest`` (and ``best``) at it; drop what is no longer kept.

        Nothing is dropped for one made amid a spike: a rollback needs what was before.
        """
        name = _name(snap.step)
        with atomic_directory(self.folder / name) as folder, storage_errors(self.folder / name):
            self.write_model(folder, snap.weights)
            trainer = folder / "trainer"
            trainer.mkdir()
            for what, tensors in (("optimizer", snap.trainer), ("random", snap.random)):
                save_file(tensors, trainer / f"{what}.safetensors")
                apply_umask(trainer / f"{what}.safetensors")
            write_atomic(trainer / "state.json", json.dumps(snap.table, indent=1))
            write_manifest(folder, {"format": FORMAT, "step": snap.step})
        self.written = snap.step
        write_atomic(self.run / "latest", name + "\n")
        if best:
            write_atomic(self.run / "best", name + "\n")
        if not snap.table["counters"]["spiking"]:
            self._prune()
        return self.folder / name

    def _prune(self) -> None:
        keep = {p.name for p in self.all()[-self._keep_last :]} | {self.pointer("best")}
        for path in self.all():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)

    def pointer(self, name: str) -> str | None:
        """Return the checkpoint name that the file ``latest`` or ``best`` holds."""
        file = self.run / name
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None

    def all(self) -> list[Path]:
        """Return checkpoint folders by step, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), key=_step)

    def find_latest(self, device_context: parallel.DeviceContext, *, calm: bool = False) -> Path | None:
        """Return the newest checkpoint that is whole, byte for byte; warn of those that are not, and set them aside.

        Every process calls it; the first one looks and tells the others. ``latest`` and ``best`` then say what
        that checkpoint knows, also where a process was killed before it could write them.

        Args:
            device_context: the processes.
            calm: take none that was made amid a spike, and drop those: what they hold is being undone.
        """
        name = self._newest_valid(calm) if parallel.is_main_process(device_context) else None
        name = parallel.broadcast_object(name, device_context)
        return None if name is None else self.folder / name

    def _newest_valid(self, calm: bool) -> str | None:
        remove_stale_files(self.folder)
        for path in reversed(self.all()):
            problems = verify_manifest(path)
            if not problems and not (calm and read_trainer_state(path)["counters"].get("spiking")):
                self._point_at(path)
                return path.name
            for pointer in ("latest", "best"):
                if self.pointer(pointer) == path.name:
                    (self.run / pointer).unlink()
            if not problems:
                shutil.rmtree(path)
                continue
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            progress.warn(
                f"checkpoint {path.name} is damaged and is not used ({problems[0]}); it is kept as {aside.name}"
            )
        return None

    def _point_at(self, path: Path) -> None:
        self.written = _step(path)
        best_step = read_trainer_state(path)["counters"].get("best_step")
        best = None if best_step is None else _name(best_step)
        for pointer, name in (("latest", path.name), ("best", best)):
            if name is not None and (self.folder / name).is_dir() and self.pointer(pointer) != name:
                write_atomic(self.run / pointer, name + "\n")


def read_trainer_state(checkpoint: Path) -> dict[str, Any]:
    """Return ``trainer/state.json``.

    Raises:
        CheckpointError: missing, unreadable, or of another format.
    """
    path = checkpoint / "trainer" / "state.json"
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = table.get("format")
    except FileNotFoundError as error:
        raise CheckpointError(
            "has no training state, so training cannot go on from it",
            where=checkpoint,
            fix="Start a new run from its weights with --from.",
        ) from error
    except (ValueError, AttributeError) as error:
        raise CheckpointError("is unreadable", where=path) from error
    if found != FORMAT:
        raise CheckpointError(
            "has another format",
            where=path,
            found=found,
            expected=FORMAT,
            fix="Go on with the version of Firstlight that wrote it, or start a new run from its weights with --from.",
        )
    return table


def restore(checkpoint: Path, state: TrainState, device_context: parallel.DeviceContext) -> dict[str, Any]:
    """Put a checkpoint's weights, optimiser, counters and random states into ``state``; return its table.

    Raises:
        CheckpointError: something in it does not fit the model or the optimiser.
    """
    table = read_trainer_state(checkpoint)
    try:
        state.weight_format.load(state.model, checkpoint)
        trainer = load_file(checkpoint / "trainer" / "optimizer.safetensors")
        random = load_file(checkpoint / "trainer" / "random.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=checkpoint) from error
    state.load_trainer_tensors(trainer)
    state.load_scalars(table["scalars"])
    state.counters = Counters.from_json(table["counters"])
    if table["world_size"] == device_context.world_size:
        prefix = f"{device_context.rank}/"
        parallel.set_rng_state({k.removeprefix(prefix): v for k, v in random.items() if k.startswith(prefix)})
    elif parallel.is_main_process(device_context):
        progress.warn(
            f"the run had {table['world_size']} processes and goes on with {device_context.world_size}: "
            "same data and batches, but not bit for bit what it would have been"
        )
    return table


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
