"""Resolve requested settings into those of a run: a new one, or the one that the directory already holds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from firstlight import progress
from firstlight.config import Settings, flatten, merge, resolve
from firstlight.errors import CompatibilityError, ConfigError, UsageError
from firstlight.runs.compatibility import changed_settings, check_changes
from firstlight.runs.directory import RunDirectory
from firstlight.runs.recipe import Recipe
from firstlight.runs.sources import is_missing, is_same_source
from firstlight.train import CHANGEABLE_ON_RESUME

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Request(Generic[S]):
    """A run as requested.

    Attributes:
        run: the run directory.
        settings: validated; in a new run, settings of ``auto`` are not resolved yet.
        changed: settings that a resume changes, ``{key: (old, new)}``, and inputs that were moved.
        resumes: whether the directory holds a run that is resumed.
        restarts: whether that run starts again at step 0.
    """

    run: RunDirectory
    settings: S
    changed: dict[str, tuple[Any, Any]]
    resumes: bool
    restarts: bool = False


def resolve_request(
    recipe: Recipe[S, Any, Any],
    run: RunDirectory,
    specified: Mapping[str, Any],
    *,
    resume: bool,
    restart: bool = False,
    check: Callable[[S], None],
    settings_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Request[S]:
    """Validate the requested settings, and compare them with those of the run that the directory holds, if any.

    Args:
        recipe: the kind of run.
        run: the run directory.
        specified: the merged layers (preset, TOML, ``key=value``).
        resume: whether a run that is there is resumed.
        restart: whether it starts again at step 0 instead; its checkpoints and logs are moved aside.
        check: raises for a new run whose settings cannot be trained with.
        settings_file: the TOML file among the layers, named in errors about its keys.
        overrides: the layer of the command line, whose keys are not in that file.

    Raises:
        UsageError: settings that cannot be used, or a directory that is not a run.
        CompatibilityError: the directory holds a run and ``resume`` is not set, or a resume changes a fixed setting.
    """
    if run.exists:
        return _resolve_resume(recipe, run, specified, resume=resume, restart=restart)
    if run.lacks_settings:
        raise UsageError(
            "is a run directory without run.toml, so its settings are unknown",
            where=run.path,
            fix="Put run.toml back. For a new run that starts from its weights, use --from and another --out.",
        )
    if run.holds_other_files():
        raise UsageError("exists and is not a run directory", where=run.path, fix="Choose another --out.")
    with _naming_file(settings_file, overrides or {}):
        settings = resolve(recipe.settings_class, specified)
        check(settings)
    if resume and not run.is_unstarted:
        progress.notice(f"{run.path}: there is no run to resume here; a new one starts")
    return Request(run, settings, {}, resumes=False)


def _resolve_resume(
    recipe: Recipe[S, Any, Any], run: RunDirectory, specified: Mapping[str, Any], *, resume: bool, restart: bool
) -> Request[S]:
    kind = run.kind
    if kind is not None and kind != recipe.kind:
        raise UsageError(
            f"holds a {kind} run",
            where=run.path,
            expected=f"a {recipe.kind} run",
            fix=f"Resume it with firstlight {kind}, or choose another --out.",
        )
    if not resume and not restart:
        raise CompatibilityError(
            "already holds a run", where=run.path, fix="Add --resume to continue it, or choose another --out."
        )
    old = run.read_settings()
    changed = changed_settings(old, specified)
    moved = _take_sources(recipe, run, changed)
    new_values = _nested({key: new for key, (_, new) in (changed | moved).items()})
    try:
        with _naming_file(run.settings_file, new_values):
            settings = resolve(recipe.settings_class, merge(old, new_values))
    except ConfigError as error:
        # A misspelled key is reported as such, not as a setting that a resume cannot change.
        if error.where in changed:
            raise
        check_changes(changed, run.path)
        raise
    if restart and (refused := sorted(changed.keys() - CHANGEABLE_ON_RESUME)):
        raise CompatibilityError(
            "a run that starts again keeps its settings",
            where=run.path,
            found=", ".join(f"{key} = {changed[key][1]!r}" for key in refused),
            fix=f"For others, start a new run: firstlight {recipe.kind} … --out NEW",
        )
    return Request(run, settings, check_changes(changed, run.path) | moved, resumes=True, restarts=restart)


def _take_sources(
    recipe: Recipe[S, Any, Any], run: RunDirectory, changed: dict[str, tuple[Any, Any]]
) -> dict[str, tuple[Any, Any]]:
    """Remove the run's inputs from the changed settings, and return those that were moved to another place."""
    moved = {}
    for key in recipe.source_keys:
        before, now = changed.get(key, (None, None))
        if now is None:
            continue
        if is_same_source(before, now):
            del changed[key]
        elif (before is None and key in recipe.addable_keys) or (key in recipe.verified_keys and is_missing(before)):
            moved[key] = changed.pop(key)
        elif key.startswith("run."):
            raise CompatibilityError(
                "holds a run on other data",
                where=run.path,
                found=f"{key} = {before}",
                expected=now,
                fix="Choose another --out for a new run.",
            )
    return moved


@contextmanager
def _naming_file(settings_file: Path | None, overrides: Mapping[str, Any]) -> Iterator[None]:
    """Add the settings file to errors about its keys; a key of the command line is not in it."""
    try:
        yield
    except ConfigError as error:
        if settings_file is None or error.where is None or error.where in flatten(overrides):
            raise
        raise ConfigError(
            error.problem,
            where=f"{settings_file}: {error.where}",
            found=error.found,
            expected=error.expected,
            fix=error.fix,
        ) from error


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested tables."""
    root: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        table = root
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return root
