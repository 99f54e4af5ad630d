"""The run directory: every path of a run, and how each of its files is read and written."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from firstlight.config import Settings, dump_toml, read_toml
from firstlight.errors import UsageError
from firstlight.files import MANIFEST, is_temporary, remove_stale_files, run_layout, storage_errors, write_atomic

# Files that a run may hold before its settings are written, and those of its folders.
_EARLY_NAMES = frozenset({run_layout.LOCK, run_layout.TASKS, run_layout.INITIAL_LOSS})
_EARLY_FILES = {
    run_layout.TOKENIZER: frozenset(
        {"tokenizer.json", "tokenizer_config.json", "origin.json", "pixels.json", "ids.json"}
    ),
    run_layout.EMBEDDINGS: frozenset({"start.safetensors", "coverage.json"}),
}


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
        return self.path.name

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
        """``state.json``: running, finished, stopped or failed, and the result."""
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
    def initial_loss_file(self) -> Path:
        """``before.json``: language-model loss of the starting model, from which forgetting is computed."""
        return self.path / run_layout.INITIAL_LOSS

    @property
    def report(self) -> Path:
        """``report.html``."""
        return self.path / run_layout.REPORT

    @property
    def exists(self) -> bool:
        """Whether the directory holds a run whose settings have been written."""
        return self.settings_file.is_file()

    @property
    def kind(self) -> str | None:
        """The kind of run: ``pretrain``, ``finetune`` or that of another recipe; None if its files cannot be read."""
        kind = self.read_state().get("kind")
        if isinstance(kind, str):
            return kind
        try:
            settings = read_toml(self.settings_file)
        except UsageError:
            return None
        return "finetune" if "finetune" in settings else "pretrain"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory, created if needed, so that no other process writes into it.

        Raises:
            UsageError: another process holds it.
            StorageError: it cannot be created.
        """
        is_new = not self.path.exists()
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / run_layout.LOCK, timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise UsageError(
                    "is in use by another process", where=self.path, fix="Wait for it, or choose another --out."
                ) from error
        try:
            yield
        finally:
            # A run that failed before it wrote anything leaves no directory; removed while the lock is held.
            if is_new and [p.name for p in self.path.iterdir()] == [run_layout.LOCK]:
                with suppress(OSError):
                    (self.path / run_layout.LOCK).unlink()
                    self.path.rmdir()
            lock.release()

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
        except OSError:  # a read-only disk, on which nobody writes
            return False
        lock.release()
        return False

    def clean_up(self) -> None:
        """Remove the temporary files that a killed process of ours left in the run and its folders."""
        for folder in (self.path, self.tokenizer, self.embeddings, self.data, self.checkpoints):
            remove_stale_files(folder)

    def holds_other_files(self) -> bool:
        """Return whether the path holds files that no run has written before its settings.

        A run that was killed early leaves a lock, a tokenizer, a token store or tasks, and may be started again in its
        place; anything else belongs to somebody else.
        """
        if not self.path.exists():
            return False
        return not self.path.is_dir() or any(not self._is_early(path) for path in self.path.iterdir())

    def _is_early(self, path: Path) -> bool:
        if path.name in _EARLY_NAMES or is_temporary(path.name):
            return True
        if path.name == run_layout.DATA:
            return path.is_dir() and is_token_store(path)
        known = _EARLY_FILES.get(path.name)
        if known is None or not path.is_dir():
            return False
        return all(p.name in known or is_temporary(p.name) for p in path.iterdir())

    @property
    def is_interrupted_start(self) -> bool:
        """Whether a run was killed here before its settings were written."""
        return not self.exists and (self.path / run_layout.LOCK).is_file() and not self.holds_other_files()

    def read_settings(self) -> dict[str, Any]:
        """Read ``run.toml``."""
        return read_toml(self.settings_file)

    def write_settings(self, settings: Settings) -> None:
        """Write ``run.toml``: the same file starts the same run again."""
        header = f"Firstlight run {self.name}: every setting, resolved. The same file starts the same run again."
        write_atomic(self.settings_file, dump_toml(settings, header=header))

    def read_state(self) -> dict[str, Any]:
        """Read ``state.json``; empty where it is missing or unreadable."""
        return read_json_object(self.state_file)

    def write_state(self, **state: Any) -> None:
        """Write ``state.json``."""
        write_json(self.state_file, state)


def is_token_store(path: Path) -> bool:
    """Return whether a directory holds a token store, ours or Megatron-LM's."""
    return path.is_dir() and ((path / MANIFEST).is_file() or (path / "train.idx").is_file())


def read_json(path: Path) -> Any:
    """Read a JSON file; None where it is missing or unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is missing, unreadable or holds something else."""
    table = read_json(path)
    return table if isinstance(table, dict) else {}


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write a table as JSON, atomically."""
    write_atomic(path, json.dumps(table, indent=1, ensure_ascii=False))
