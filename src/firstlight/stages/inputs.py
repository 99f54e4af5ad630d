"""What was asked for becomes the settings of a run: presets, TOML, words, and on a resume what the run already has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.config import merge, parse_overrides, preset, read_toml, resolve
from firstlight.errors import ContractError, UsageError
from firstlight.files import MANIFEST
from firstlight.stages.settings import PretrainSettings
from firstlight.train.contract import changes, check_changes

PRESETS = "firstlight.model.presets"


@dataclass(frozen=True, slots=True)
class Request:
    """A run as asked for.

    Attributes:
        run: the run directory.
        settings: validated, with autos still open in a new run.
        changed: settings that a resume changes, ``{key: (old, new)}``.
        resumes: the run directory holds a run that goes on.
    """

    run: Path
    settings: PretrainSettings
    changed: dict[str, tuple[Any, Any]]
    resumes: bool


def understand(
    inputs: Sequence[str],
    *,
    out: Path | None,
    preset_name: str | None,
    start_from: str | None,
    resume: bool,
    overrides: Sequence[str],
) -> Request:
    """Tell a corpus, a token store, a RUN.toml and a run directory apart, and merge the layers.

    Raises:
        UsageError: nothing to train on, or inputs that do not go together.
        ContractError: the run directory holds a run and ``resume`` is not asked for, or changes what cannot change.
    """
    asked: dict[str, Any] = preset(PRESETS, preset_name) if preset_name else {}
    inputs = list(inputs)
    if len(inputs) == 1 and (Path(inputs[0]) / "run.toml").is_file():
        out, inputs = out or Path(inputs[0]), []
        if not resume:
            raise UsageError(
                "is a run directory", where=out, fix="Add --resume to go on with it, or give its run.toml for a new run."
            )
    tables = [name for name in inputs if name.endswith(".toml")]
    if tables:
        if len(inputs) > 1:
            raise UsageError("a RUN.toml stands alone", found=" ".join(inputs), fix="Name the corpus in its [run] table.")
        asked = merge(asked, read_toml(Path(tables[0])))
        out = out or Path("runs") / _name_of(Path(tables[0]))
    elif len(inputs) == 1 and _is_store(Path(inputs[0])):
        asked = merge(asked, {"run": {"store": inputs[0]}})
    elif inputs:
        asked = merge(asked, {"run": {"corpus": inputs}})
    if start_from:
        asked = merge(asked, {"run": {"start_from": start_from}})
    asked = merge(asked, parse_overrides(overrides))
    run = out or Path("runs") / (_name_of(Path(inputs[0])) if inputs else "run")
    if (run / "run.toml").is_file():
        return _existing(run, asked, resume=resume)
    if run.exists() and (not run.is_dir() or _is_foreign(run)):
        raise UsageError("exists and is not a run directory", where=run, fix="Choose another --out.")
    settings = resolve(PretrainSettings, asked)
    if not settings.run.corpus and settings.run.store is None:
        raise UsageError(
            "nothing to train on",
            expected="a CORPUS (files, folders, a named corpus), a token store or a RUN.toml",
            fix="Try: firstlight pretrain mytext.txt --out runs/mine",
        )
    return Request(run, settings, {}, resumes=False)


def _existing(run: Path, asked: Mapping[str, Any], *, resume: bool) -> Request:
    old = read_toml(run / "run.toml")
    if not resume:
        raise ContractError(
            "holds a run already", where=run, fix="Add --resume to go on with it, or choose another --out for a new one."
        )
    differing = check_changes(changes(old, asked), run)
    now = merge(old, _nested(differing))
    return Request(run, resolve(PretrainSettings, now), differing, resumes=True)


def _nested(differing: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, (_, new) in differing.items():
        *path, last = key.split(".")
        here = table
        for part in path:
            here = here.setdefault(part, {})
        here[last] = new
    return table


def _name_of(path: Path) -> str:
    if path.name == "run.toml" and path.parent.name:
        return f"{path.parent.name}-again"
    return path.name.split(".")[0] or "run"


def _is_store(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or (path / "train.idx").is_file())


def _is_foreign(run: Path) -> bool:
    """Tell a folder of other things from a new or half-prepared run."""
    ours = {"tokenizer", "data", "checkpoints", ".lock"}
    return any(p.name not in ours and not p.name.startswith(".part-") for p in run.iterdir())
