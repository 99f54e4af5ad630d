"""The run directory: every path of a run, and how each of its files is read and written."""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from firstlight import progress
from firstlight.config import Settings, dump_toml, read_toml, used_settings, without_keys
from firstlight.errors import UsageError
from firstlight.files import (
    MANIFEST,
    NO_LOCKS,
    finite_json,
    is_temporary,
    remove_stale_files,
    run_layout,
    storage_errors,
    write_atomic,
)

# Exists while a process holds the run, where the file system has no locks.
_SOFT_LOCK = f"{run_layout.LOCK}-exists"
_TAIL_BYTES = 1 << 16
# What belongs to the training of a run, as opposed to its settings and data; ``--restart`` moves it aside.
_TRAINED = (
    run_layout.CHECKPOINTS,
    run_layout.LATEST,
    run_layout.BEST,
    run_layout.EMA,
    run_layout.METRICS,
    run_layout.SAMPLES,
    run_layout.EVENTS,
    run_layout.TENSORBOARD,
    run_layout.STATE,
    run_layout.EVALUATION,
    run_layout.REPORT,
)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run directory and the files in it.

    Args:
        path: the directory; it need not exist.
    """

    path: Path

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.absolute().name  # also of "."

    @property
    def mark_file(self) -> Path:
        """``.firstlight-run``: the first file of a run, which marks the directory as one."""
        return self.path / run_layout.MARK

    @property
    def settings_file(self) -> Path:
        """``run.toml``: every setting, resolved."""
        return self.path / run_layout.SETTINGS

    @property
    def tokenizer(self) -> Path:
        """``tokenizer/``: the tokenizer, or the codec of ids that are not text."""
        return self.path / run_layout.TOKENIZER

    @property
    def data(self) -> Path:
        """``data/``: the token store."""
        return self.path / run_layout.DATA

    @property
    def embeddings(self) -> Path:
        """``embeddings/``: word vectors that the embeddings are initialised from."""
        return self.path / run_layout.EMBEDDINGS

    @property
    def base(self) -> Path:
        """``base/``: the model that the run starts from; that of adapters stays, others until a checkpoint is saved."""
        return self.path / run_layout.BASE

    @property
    def rows(self) -> Path:
        """``rows/``: the encoded rows of the tasks of a fine-tuning run."""
        return self.path / run_layout.ROWS

    @property
    def checkpoints(self) -> Path:
        """``checkpoints/``: one Hugging Face model directory per saved step."""
        return self.path / run_layout.CHECKPOINTS

    @property
    def ema(self) -> Path:
        """``average/``: the exponential moving average of the weights, as a model directory."""
        return self.path / run_layout.EMA

    @property
    def metrics(self) -> Path:
        """``metrics.jsonl``: one object per logged step."""
        return self.path / run_layout.METRICS

    @property
    def samples(self) -> Path:
        """``samples.jsonl``: samples generated during training."""
        return self.path / run_layout.SAMPLES

    @property
    def events(self) -> Path:
        """``events.jsonl``: resumes, changed settings, skipped updates, rollbacks."""
        return self.path / run_layout.EVENTS

    @property
    def state_file(self) -> Path:
        """``state.json``: running, finished, stopped, interrupted or failed, and the result."""
        return self.path / run_layout.STATE

    @property
    def compatibility_file(self) -> Path:
        """``contract.json``: hashes of tokenizer, data, settings and code."""
        return self.path / run_layout.COMPATIBILITY

    @property
    def environment_file(self) -> Path:
        """``environment.json``: versions and hardware."""
        return self.path / run_layout.ENVIRONMENT

    @property
    def evaluation_file(self) -> Path:
        """``evaluation.json``: metrics at the end of the run."""
        return self.path / run_layout.EVALUATION

    @property
    def tasks_file(self) -> Path:
        """``tasks.json``: the labelled tasks of a fine-tuning run."""
        return self.path / run_layout.TASKS

    @property
    def collapsed_starts_file(self) -> Path:
        """``collapsed.json``: the starts of a fine-tuning run that were given up."""
        return self.path / run_layout.COLLAPSED_STARTS

    @property
    def initial_loss_file(self) -> Path:
        """``before.json``: language-model loss of the starting model, from which forgetting is computed."""
        return self.path / run_layout.INITIAL_LOSS

    @property
    def report(self) -> Path:
        """``report.html``."""
        return self.path / run_layout.REPORT

    @property
    def exists(self) -> bool:
        """Whether the directory holds a run whose settings have been written; ``run.toml`` alone is no run."""
        return self.settings_file.is_file() and (
            any(file.is_file() for file in (self.mark_file, self.state_file, self.compatibility_file))
            or any(self._checkpoints())
        )

    @property
    def kind(self) -> str | None:
        """The kind of run: ``pretrain``, ``finetune`` or that of another recipe; None if its files cannot be read."""
        for file in (self.state_file, self.mark_file, self.compatibility_file):
            if isinstance(kind := read_json_object(file).get("kind"), str):
                return kind
        try:
            settings = read_toml(self.settings_file)
        except UsageError:
            return None
        return "finetune" if "finetune" in settings else "pretrain"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory, created if needed, so that no other process writes into it.

        On a file system without locks a file that exists while the process runs takes their place.

        Raises:
            UsageError: another process holds it.
            StorageError: it cannot be created.
        """
        is_new = not self.path.exists()
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._acquire()
        copies: set[str] = set()
        try:
            yield
        except Exception:
            copies = {self.base.name, self.rows.name}
            raise
        finally:
            # A run that failed before it wrote more than the mark and copies of its inputs leaves no directory; removed
            # while the lock is held.
            own = {run_layout.LOCK, _SOFT_LOCK, run_layout.MARK}
            if is_new and self.path.is_dir() and {p.name for p in self.path.iterdir()} <= {*own, *copies}:
                with suppress(OSError):
                    for name in copies:
                        shutil.rmtree(self.path / name, ignore_errors=True)
                    for name in own:
                        (self.path / name).unlink(missing_ok=True)
                    self.path.rmdir()
            lock.release()

    def _acquire(self) -> BaseFileLock:
        file = self.path / run_layout.LOCK
        lock: BaseFileLock = FileLock(file, timeout=0)
        fix = "Wait for it, or choose another --out."
        try:
            try:
                lock.acquire()
            except (OSError, NotImplementedError) as error:
                if isinstance(error, Timeout) or (isinstance(error, OSError) and error.errno not in NO_LOCKS):
                    raise
                exists = self.path / _SOFT_LOCK
                progress.warn(
                    f"the file system of {self.path} has no locks: {exists.name} takes their place. After a crash it "
                    "may stay behind"
                )
                lock = SoftFileLock(exists, timeout=0)
                fix += f" If no other process uses it, delete {exists}."
                lock.acquire()
        except Timeout as error:
            raise UsageError("is in use by another process", where=self.path, fix=fix) from error
        return lock

    @property
    def was_deleted(self) -> bool:
        """Whether somebody has deleted or moved the directory while this process holds it; a write would create it."""
        return not any((self.path / name).exists() for name in (run_layout.LOCK, _SOFT_LOCK))

    def is_locked(self) -> bool:
        """Return whether a process is writing into the run now."""
        lock_file = self.path / run_layout.LOCK
        if not lock_file.is_file():
            return False
        lock = FileLock(lock_file, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # a read-only disk, on which nobody writes, or one without locks
            return (self.path / _SOFT_LOCK).exists()
        lock.release()
        return False

    def clean_up(self) -> None:
        """Remove the temporary files that a killed process of ours left in the run and its folders."""
        for folder in (self.path, self.tokenizer, self.embeddings, self.data, self.checkpoints):
            remove_stale_files(folder)

    def holds_other_files(self) -> bool:
        """Return whether the path holds files that are not those of a run.

        A run first writes a mark into a directory that holds nothing else. Whatever is there with the mark is the
        run's own, and a run that ended before its settings were written can be started again.
        """
        if not self.path.exists() or self.mark_file.is_file():
            return False
        return not self.path.is_dir() or any(not self._precedes_mark(path) for path in self.path.iterdir())

    def write_mark(self, kind: str) -> None:
        """Write the first file of a run."""
        write_json(self.mark_file, {"kind": kind})

    @staticmethod
    def _precedes_mark(path: Path) -> bool:
        return path.name in (run_layout.LOCK, _SOFT_LOCK) or is_temporary(path.name)

    @property
    def is_unstarted(self) -> bool:
        """Whether a run ended here before its settings were written."""
        return not self.exists and self.mark_file.is_file() and not self.lacks_settings

    @property
    def lacks_settings(self) -> bool:
        """Whether this was a run, but ``run.toml`` is missing."""
        state = self.read_state()
        was_run = isinstance(state.get("kind"), str) and isinstance(state.get("status"), str)
        return not self.exists and (was_run or any(self._checkpoints()))

    @property
    def has_saved(self) -> bool:
        """Whether a checkpoint was saved here at some time, even if it is missing or damaged now."""
        if any((self.path / name).is_file() for name in (run_layout.LATEST, run_layout.BEST)):
            return True
        return any(self._checkpoints()) or self.read_state().get("status") in ("finished", "stopped", "interrupted")

    def logs_beyond(self, step: int) -> bool:
        """Return whether the last line of the metrics is of a later step."""
        try:
            with self.metrics.open("rb") as file:
                file.seek(max(0, self.metrics.stat().st_size - _TAIL_BYTES))
                lines = file.read().splitlines()
        except OSError:
            return False
        steps = [_parse_object(line).get("step") for line in lines[-2:]]
        return any(isinstance(last, int) and last > step for last in steps)

    def validation_loss(self, step: int) -> float | None:
        """Return the validation loss that was logged for a step, or None."""
        found = None
        if self.metrics.is_file():
            with self.metrics.open("rb") as file:
                for line in file:
                    if b'"valid_loss"' in line and (table := _parse_object(line)).get("step") == step:
                        found = table.get("valid_loss")
        return found if isinstance(found, float) else None

    def _checkpoints(self) -> Iterator[Path]:
        name = f"step-{'[0-9]' * 8}*"
        return chain(self.checkpoints.glob(name), self.checkpoints.glob(f"damaged-{name}"))

    def move_training_aside(self) -> Path | None:
        """Move checkpoints, logs and results to ``before-restart-N/``, and return that; None if there are none."""
        present = [path for name in _TRAINED if (path := self.path / name).exists()]
        if not present:
            return None
        aside = next(p for n in count(1) if not os.path.lexists(p := self.path / f"before-restart-{n}"))
        with storage_errors(aside):
            aside.mkdir()
            for path in present:
                path.rename(aside / path.name)
        return aside

    def read_settings(self) -> dict[str, Any]:
        """Read ``run.toml``."""
        return read_toml(self.settings_file)

    def write_settings(self, settings: Settings, header: str, without: Collection[str] = ()) -> None:
        """Write ``run.toml``.

        Args:
            settings: of the run; those that have no effect with the others are not written.
            header: comment lines.
            without: dotted keys of further ones.
        """
        write_atomic(self.settings_file, dump_toml(without_keys(used_settings(settings), without), header=header))

    def read_state(self) -> dict[str, Any]:
        """Read ``state.json``; empty where it is missing or unreadable."""
        return read_json_object(self.state_file)

    def write_state(self, **state: Any) -> None:
        """Write ``state.json``."""
        write_json(self.state_file, state)


def is_token_store(path: Path) -> bool:
    """Return whether a directory holds a token store, ours or Megatron-LM's."""
    return path.is_dir() and ((path / MANIFEST).is_file() or (path / "train.idx").is_file())


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def read_json(path: Path) -> Any:
    """Read a JSON file; None where it is missing or unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is missing, unreadable or holds something else."""
    table = read_json(path)
    return table if isinstance(table, dict) else {}


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write a table as JSON, atomically; numbers that are not finite become strings."""
    write_atomic(path, json.dumps(finite_json(table), indent=1, ensure_ascii=False))
