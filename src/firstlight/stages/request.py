"""What was asked for becomes the settings of a run: presets, TOML, words, and on a resume what the run already has."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.config import flatten, merge, parse_overrides, preset, read_toml, resolve
from firstlight.errors import ConfigError, ContractError, UsageError
from firstlight.files import MANIFEST
from firstlight.optim import lr_factor
from firstlight.runs.compatibility import changed_settings, check_changes
from firstlight.stages.settings import PretrainSettings, RunSettings
from firstlight.tokenizer import CODECS
from firstlight.train import Limits

PRESETS = "firstlight.stages.presets.pretrain"
_LOCK = ".lock"
_EMBEDDINGS_FILES = frozenset({"start.safetensors", "coverage.json"})
_TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer_config.json", "origin.json", *CODECS})


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


def resolve_request(
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
    if len(inputs) == 1 and _is_run(Path(inputs[0])):
        out, inputs = _to_resume(Path(inputs[0]), out, resume=resume), []
    table = _table_of(inputs)
    if table is not None:
        asked = merge(asked, read_toml(table))
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
    with _naming(table, parse_overrides(overrides)):
        settings = resolve(PretrainSettings, asked)
        _check_end(settings)
    _check_source(settings.run)
    return Request(run, settings, {}, resumes=False)


def _table_of(inputs: list[str]) -> Path | None:
    """Return the RUN.toml among the inputs, which must be the only one."""
    tables = [name for name in inputs if name.endswith(".toml")]
    if tables and len(inputs) > 1:
        raise UsageError(
            "a RUN.toml stands alone",
            where=tables[0],
            found=" ".join(inputs),
            fix="Name the corpus in its [run] table, or as run.corpus=[...].",
        )
    return Path(tables[0]) if tables else None


@contextmanager
def _naming(table: Path | None, words: Mapping[str, Any]) -> Iterator[None]:
    """Name the file too in which a wrong setting stands, unless a word of the command line set it."""
    try:
        yield
    except ConfigError as error:
        if table is None or error.where is None or error.where in flatten(words):
            raise
        raise ConfigError(
            error.problem, where=f"{table}: {error.where}", found=error.found, expected=error.expected, fix=error.fix
        ) from error


def _check_source(run: RunSettings) -> None:
    if not run.corpus and run.store is None:
        raise UsageError(
            "nothing to train on",
            expected="a CORPUS (files, folders, a named corpus), a token store or a RUN.toml",
            fix="Try: firstlight pretrain mytext.txt --out runs/mine",
        )
    if run.corpus and run.store is not None:
        raise UsageError(
            "a corpus and a token store",
            where="run.store",
            found=run.store,
            expected="one of them",
            fix="Leave out the corpus, or run.store.",
        )


def _check_end(settings: PretrainSettings) -> None:
    """Refuse a run that nothing ends, or whose schedule needs an end that it lacks, before any text is read."""
    limits = Limits.resolve(settings.train, step_tokens=1, epoch_tokens=1, parameters=1)
    if limits.minutes is None:
        lr_factor(0, limits.steps, settings.optim.schedule)


def _to_resume(named: Path, out: Path | None, *, resume: bool) -> Path:
    """Return the run directory that was named in the place of a corpus, which only a resume may do."""
    if not resume:
        raise UsageError(
            "is a run directory", where=named, fix="Add --resume to go on with it, or give its run.toml for a new run."
        )
    if out is not None and out.resolve() != named.resolve():
        raise UsageError(
            "two run directories",
            where=named,
            found=f"--out {out}",
            fix="Leave out --out; for a new run that starts from its weights, use --from.",
        )
    if not (named / "run.toml").is_file():
        raise UsageError(
            "was cut off before its settings were written",
            where=named,
            fix=f"Give the whole command again: firstlight pretrain CORPUS --out {named} --resume",
        )
    return named


def _existing(run: Path, asked: Mapping[str, Any], *, resume: bool) -> Request:
    if not resume:
        raise ContractError(
            "holds a run already",
            where=run,
            fix="Add --resume to go on with it, or choose another --out for a new one.",
        )
    old = read_toml(run / "run.toml")
    given = _without_source(changed_settings(old, asked), run)
    try:
        settings = resolve(PretrainSettings, merge(old, _nested(given)))
    except ConfigError as error:
        # Else a misspelt key would only be told as one that cannot be changed.
        if error.where in given:
            raise
        check_changes(given, run)
        raise
    return Request(run, settings, check_changes(given, run), resumes=True)


def _without_source(given: Mapping[str, tuple[Any, Any]], run: Path) -> dict[str, tuple[Any, Any]]:
    """Return the changes but for corpus and store, which may be the same path written in another way, no other text."""
    for key in ("run.corpus", "run.store"):
        before, now = given.get(key, (None, None))
        if _places(before) != _places(now):
            raise ContractError(
                "holds a run on another text",
                where=run,
                found=before,
                expected=now,
                fix="Choose another --out for a new run.",
            )
    return {key: change for key, change in given.items() if key not in ("run.corpus", "run.store")}


def _places(source: Any) -> list[Path]:
    return [Path(str(name)).absolute() for name in (source if isinstance(source, list) else [source])]


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
    """Return a run's name after its first input: ``books`` for ``books/*.txt`` or ``books.txt.gz``."""
    if path.name == "run.toml" and path.parent.name:
        return f"{path.parent.name}-again"
    stems = (re.sub(r"[^\w-]+", "", name.split(".")[0]) for name in (path.name, path.parent.name))
    return next((stem for stem in stems if stem.strip("-")), "run")


def _is_store(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or (path / "train.idx").is_file())


def _is_run(path: Path) -> bool:
    """Tell a run, or one that was cut off at its beginning, from a folder of texts."""
    return (path / "run.toml").is_file() or ((path / _LOCK).is_file() and not _is_foreign(path))


def _is_foreign(run: Path) -> bool:
    """Tell a folder of other things from a run that was cut off before its settings were written.

    What such a run finds under its own names it may replace, so nobody else's may pass for them.
    """
    for path in run.iterdir():
        if path.name == _LOCK or path.name.startswith((".part-", ".old-")):
            continue
        if path.name == "tokenizer" and path.is_dir() and not _others(path, _TOKENIZER_FILES):
            continue
        if path.name == "data" and _is_store(path):
            continue
        if path.name == "embeddings" and path.is_dir() and not _others(path, _EMBEDDINGS_FILES):
            continue
        return True
    return False


def _others(folder: Path, known: frozenset[str]) -> bool:
    return any(p.name not in known and not p.name.startswith(".part-") for p in folder.iterdir())
