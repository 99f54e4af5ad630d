"""The ways in which a user names a run or one of its checkpoints."""

import contextlib
import re
from pathlib import Path, PurePath
from typing import NamedTuple

from firstlight.errors import UsageError
from firstlight.files import run_layout

# Files of a folder with several runs of fine-tuning.
SEARCH, SEEDS = "search.json", "seeds.json"

_STEP_NAME = re.compile(r"step-(\d{8,})")
_POINTERS = (run_layout.BEST, run_layout.LATEST)
_MAX_LISTED = 8


class RunPath(NamedTuple):
    """What a path names.

    Attributes:
        run: the run directory, if it is inside one.
        checkpoint: the checkpoint of the run, if it names a particular one.
    """

    run: Path | None
    checkpoint: Path | None = None


def parse_run_path(name: str | Path) -> RunPath:
    """Find the run, and the checkpoint, that a path names.

    A run is named by its directory, by a file in it such as ``run.toml``, or by ``checkpoints/``. A checkpoint is named
    by its directory, by a file in it, by the pointers ``best`` and ``latest``, or as ``RUN@STEP``, ``RUN@best`` and
    ``RUN@latest``; a path that exists takes precedence over ``@``.

    Raises:
        UsageError: ``RUN@STEP`` names a run that does not have this checkpoint.
    """
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # an unknown user
        path = path.expanduser()
    try:
        exists = path.exists()
    except OSError:  # such as a name that is too long for any file
        return RunPath(None)
    if not exists:
        base, at, step = str(path).rpartition("@")
        return _at_step(Path(base), step) if at and base and is_run_directory(Path(base)) else RunPath(None)
    for folder in (path, *path.parents):
        if folder.parent.name == run_layout.CHECKPOINTS and _STEP_NAME.fullmatch(folder.name):
            return RunPath(folder.parent.parent, folder)
    if path.name in _POINTERS and path.is_file() and is_run_directory(path.parent):
        return RunPath(path.parent, _pointed_to(path))
    if is_run_directory(path):
        return RunPath(path)
    is_part = path.is_file() or path.name == run_layout.CHECKPOINTS
    return RunPath(path.parent if is_part and is_run_directory(path.parent) else None)


def artifact_path(name: str | Path) -> Path:
    """Return the folder that a name of a run or a checkpoint stands for; a file that is not ``run.toml``, as it is.

    For commands that read something a run contains, such as its tokenizer or its token store.

    Raises:
        UsageError: as ``parse_run_path``.
    """
    path, found = Path(name), parse_run_path(name)
    if path.is_file() and path.name != run_layout.SETTINGS:
        return path
    return found.checkpoint or found.run or path


def short_name(name: str) -> str:
    """Return the name of a file, folder or checkpoint without the folders of this machine; another name as it is."""
    path = PurePath(name)
    if not path.is_absolute():
        return name
    return "/".join(path.parts[-3:]) if path.parent.name == run_layout.CHECKPOINTS else path.name


def is_run_directory(folder: Path) -> bool:
    """Whether a folder has the files of a run; one with nothing but a ``run.toml`` is none."""
    if (folder / run_layout.CHECKPOINTS).is_dir():
        return True
    started = (run_layout.MARK, run_layout.STATE, run_layout.COMPATIBILITY)
    return (folder / run_layout.SETTINGS).is_file() and any((folder / name).is_file() for name in started)


def list_checkpoints(run: Path) -> list[Path]:
    """List the checkpoints of a run, the newest first."""
    found = [p for p in (run / run_layout.CHECKPOINTS).glob("step-*") if _STEP_NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")), reverse=True)


def _at_step(run: Path, step: str) -> RunPath:
    pointer = run / step
    if step in _POINTERS and pointer.is_file():
        return RunPath(run, _pointed_to(pointer))
    checkpoints = list_checkpoints(run)
    if step.isascii() and step.isdecimal():
        for checkpoint in checkpoints:
            if int(checkpoint.name.removeprefix("step-")) == int(step):
                return RunPath(run, checkpoint)
    steps = [str(int(c.name.removeprefix("step-"))) for c in checkpoints]
    listed = ", ".join(steps[:_MAX_LISTED]) + (" …" if len(steps) > _MAX_LISTED else "")
    raise UsageError("has no checkpoint of this step", where=run, found=f"@{step}", expected=listed or "none is saved")


def _pointed_to(pointer: Path) -> Path | None:
    """Return the checkpoint that ``best`` or ``latest`` names, or None where its content is not a name."""
    name = pointer.read_text("utf-8", "replace").strip()
    is_name = _STEP_NAME.fullmatch(name) is not None  # a name with a path in it leads elsewhere
    return pointer.parent / run_layout.CHECKPOINTS / name if is_name else None
