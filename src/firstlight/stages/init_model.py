"""The model that a run starts from: loaded, kept in the run, and no longer needed once a checkpoint is there."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.errors import CheckpointError, UsageError
from firstlight.files import atomic_directory, changed_files, link_or_copy, read_json_object, sha256, verify_manifest
from firstlight.files.run_layout import TASKS
from firstlight.files.run_names import list_checkpoints
from firstlight.lm import GENERATION, LM, GenerationConfig, read_config
from firstlight.lm.save import CONFIG, WEIGHTS
from firstlight.model import HEADS_FILE, ModelConfig
from firstlight.runs import RunDirectory
from firstlight.shell import command_line
from firstlight.tokenizer import TOKENIZER_FILES

_FIRST = "step-00000000"


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What a run needs of a model directory besides its weights and its tokenizer.

    Attributes:
        folder: the model directory.
        config: the model's shape.
        generation: its special ids and settings of generation.
    """

    folder: Path
    config: ModelConfig
    generation: GenerationConfig


def load_init_model(run: RunDirectory, name: str, *, own: bool = True, adapters: bool = False) -> LM:
    """Load the model that a run starts from: the run's own copy of it, if there is one.

    That is ``base/``, or the checkpoint of step 0, except of adapters, which are merged in it.

    Args:
        run: the run directory.
        name: of the model, as its settings have it.
        own: whether the run may have a copy; otherwise what an earlier attempt left in it is not used.
        adapters: whether the run trains adapters on it.

    Raises:
        UsageError: it is not there.
        CheckpointError: it is damaged.
    """
    if own and (copy := _own_copy(run, adapters)) is not None:
        return LM.load_fp32(copy)
    try:
        return LM.load_fp32(name)
    except UsageError as error:
        if Path(name).exists():
            raise
        if not run.exists:
            if Path(name).is_absolute():  # as in a run.toml
                fix = "If it was moved, add its new place to the command, as run.init_from=MODEL."
                raise UsageError(error.problem, where=name, fix=fix) from error
            raise
        raise UsageError(
            "the model that the run started from is not there",
            where=f"{run.settings_file}: run.init_from",
            found=name,
            fix="Put it back, or add its new place to the command, as run.init_from=MODEL.",
        ) from error


def _own_copy(run: RunDirectory, adapters: bool) -> Path | None:
    if (run.base / CONFIG).is_file():
        return run.base
    first = run.checkpoints / _FIRST
    is_usable = not adapters and first.is_dir() and not verify_manifest(first, contents=False)
    return first if is_usable else None


def saved_model(run: RunDirectory) -> SavedModel:
    """Read the shape of a run's model from its newest checkpoint in which these files are intact.

    Raises:
        CheckpointError: there is none.
    """
    error: Exception | None = None
    for folder in list_checkpoints(run.path):
        try:
            if problems := changed_files(folder, [CONFIG, GENERATION]):
                raise CheckpointError(problems[0])
            config, table = read_config(folder)
            return SavedModel(folder, config, GenerationConfig.read(folder, table, config.vocab_size or 0))
        except (CheckpointError, OSError) as found:
            error = error or found
    raise CheckpointError(
        "the run has been trained, but none of its checkpoints can be read, so it cannot be resumed",
        where=run.checkpoints,
        found=error,
        fix=f"Put a checkpoint back, or start again at step 0: {command_line(run.kind, run.path, '--restart')}",
    ) from error


def keep_base(source: Path, folder: Path) -> None:
    """Keep the model that a run starts from in the run, as hard links where the file system has them, else as a copy.

    Adapters need it for good; other runs until their first checkpoint, that of step 0, is saved.

    Args:
        source: a model directory.
        folder: ``base/`` of the run; replaced.

    Raises:
        StorageError: the disk is full or read-only.
    """
    names = [CONFIG, GENERATION, TASKS, *TOKENIZER_FILES]
    files = [*weight_files(source), *(path for name in names for path in source.glob(name))]
    with atomic_directory(folder) as temporary:
        for file in dict.fromkeys(files):
            target = temporary / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            link_or_copy(file, target)


def drop_base(run: RunDirectory) -> None:
    """Remove ``base/`` of a run whose checkpoints have all weights."""
    if list_checkpoints(run.path):
        shutil.rmtree(run.base, ignore_errors=True)


def weight_files(folder: Path) -> list[Path]:
    """List the files that the weights of a model directory are read from, with the index of shards."""
    heads = folder / HEADS_FILE
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS, *([heads] if heads.is_file() else [])]
    index = folder / f"{WEIGHTS}.index.json"
    table: dict[str, Any] = read_json_object(index, CheckpointError)
    return [index, *(folder / name for name in sorted(set(table["weight_map"].values())))]


def hash_weights(folder: Path) -> str:
    """Compute the SHA-256 of the files of a model's weights."""
    files = [file for file in sorted(weight_files(folder)) if file.suffix == ".safetensors"]
    return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()
