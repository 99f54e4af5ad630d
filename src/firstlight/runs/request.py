"""Resolve requested settings into those of a run: a new one, or the one that the directory already holds."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from firstlight import progress
from firstlight.config import (
    Settings,
    flatten,
    merge,
    nested,
    of_named_members,
    resolve,
    used_layer,
    validate,
    without_keys,
)
from firstlight.errors import CompatibilityError, ConfigError, UsageError
from firstlight.files.run_names import parse_run_path
from firstlight.runs.compatibility import (
    changed_settings,
    check_changes,
    describe_changes,
    is_of_updates,
)
from firstlight.runs.directory import RunDirectory, read_json_object
from firstlight.runs.recipe import Recipe
from firstlight.runs.sources import is_missing
from firstlight.runs.updates import keep_updates, unnamed_error, without_edits
from firstlight.shell import command_line
from firstlight.train import CHANGEABLE_ON_RESUME

S = TypeVar("S", bound=Settings)
UnusedRule = Callable[[S], Mapping[str, str]]

_MAX_NAMED = 5  # settings in a notice


@dataclass(frozen=True, slots=True)
class Request(Generic[S]):
    """A run as requested.

    Attributes:
        run: the run directory.
        settings: validated; in a new run, settings of ``auto`` are not resolved yet.
        changed: settings that a resume changes, ``{key: (old, new)}``, and inputs that were moved.
        named: the dotted keys that the command names.
        resumes: whether the directory holds a run that is resumed.
        restarts: whether that run starts again at step 0.
    """

    run: RunDirectory
    settings: S
    changed: dict[str, tuple[Any, Any]]
    resumes: bool
    restarts: bool = False
    named: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Layers:
    """The settings that a command names, the lowest layer first.

    Attributes:
        preset: of a preset, or otherwise chosen for the user; what has no effect in it is left out.
        file: of a TOML file.
        path: of that file, for messages.
        arguments: of the command line, or of a call.
    """

    preset: Mapping[str, Any] = field(default_factory=dict)
    file: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def resolve_request(
    recipe: Recipe[S, Any, Any],
    run: RunDirectory,
    layers: Layers,
    *,
    resume: bool,
    restart: bool = False,
    check: Callable[[S], None],
    unused: UnusedRule[S] | None = None,
) -> Request[S]:
    """Validate the requested settings, and compare them with those of the run that the directory holds, if any.

    Args:
        recipe: the kind of run.
        run: the run directory.
        layers: of settings.
        resume: whether a run that is there is resumed.
        restart: whether it starts again at step 0 instead; its checkpoints and logs are moved aside.
        check: raises for a new run whose settings cannot be trained with.
        unused: names the settings of a new run that have no effect on its inputs, and why.

    Raises:
        UsageError: settings that cannot be used, or a directory that is not a run.
        CompatibilityError: the directory holds a run and ``resume`` is not set, or a resume changes a fixed setting.
    """
    if run.exists:
        return _resolve_resume(recipe, run, layers, resume=resume, restart=restart)
    if run.lacks_settings:
        raise UsageError(
            "is a run directory without run.toml, so its settings are unknown",
            where=run.path,
            fix="Put run.toml back. For a new run that starts from its weights, use --from and another --out.",
        )
    if run.holds_other_files():
        raise UsageError("exists and is not a run directory", where=run.path, fix="Choose another --out.")
    with _naming_file(layers.path, layers.arguments):
        settings = _resolve_new(recipe, layers, unused)
        check(settings)
    _say_if_changed_under_way(layers.path)
    if resume and not run.is_unstarted:
        progress.notice(f"{run.path}: there is no run to resume here; a new one starts")
    return Request(run, settings, {}, resumes=False)


def _say_if_changed_under_way(settings_file: Path | None) -> None:
    """Say that the file of a run whose settings were changed during the run does not repeat it."""
    run = None if settings_file is None else parse_run_path(settings_file).run
    if run is None:
        return
    if changes := describe_changes(read_json_object(RunDirectory(run).compatibility_file)):
        progress.notice(
            f"{settings_file}: that run changed settings under way ({changes}), so a new run with this file, which has "
            "the last values from the first step on, is another run"
        )


def _resolve_new(recipe: Recipe[S, Any, Any], layers: Layers, unused: UnusedRule[S] | None) -> S:
    """Resolve the settings of a new run, without those of its file that the command line leaves without an effect."""
    root, below = recipe.settings_class, merge(layers.preset, layers.file)
    kept = used_layer(root, below, layers.arguments, unused=unused)
    is_kept = flatten(kept)
    left_out = [k for k, v in flatten(layers.file).items() if k not in is_kept and v not in ("auto", None)]
    # Earlier versions wrote every setting to run.toml.
    if left_out and (layers.path is None or parse_run_path(layers.path).run is None):
        with _suppress_unless(left_out):
            resolve(root, layers.file, base=layers.preset, unused=unused)
    settings = resolve(root, layers.arguments, base=kept, unused=unused)
    if left_out:
        more = f" and {len(left_out) - _MAX_NAMED} more" if len(left_out) > _MAX_NAMED else ""
        named = ", ".join(left_out[:_MAX_NAMED]) + more
        progress.notice(f"{layers.path}: left out, as without an effect beside the other settings: {named}")
    return settings


@contextmanager
def _suppress_unless(keys: Collection[str]) -> Iterator[None]:
    """Suppress a ConfigError about settings other than ``keys``: the file alone need not be complete."""
    try:
        yield
    except ConfigError as error:
        if error.where in keys:
            raise


def _resolve_resume(
    recipe: Recipe[S, Any, Any], run: RunDirectory, layers: Layers, *, resume: bool, restart: bool
) -> Request[S]:
    kind = run.kind
    if kind is not None and kind != recipe.kind:
        raise UsageError(
            f"holds a {kind} run",
            where=run.path,
            expected=f"a {recipe.kind} run",
            fix=f"Choose another --out, or resume it: {command_line(kind, run.path, '--resume')}",
        )
    if not resume and not restart:
        raise CompatibilityError(
            "already holds a run", where=run.path, fix="Add --resume to continue it, or choose another --out."
        )
    old = recipe.of_this_version(run.read_settings())
    named = frozenset(flatten(layers.arguments))
    old, optimizer = without_edits(recipe, run, old, named, restart=restart)
    changed = changed_settings(old, merge(_used_before(recipe, old, layers), layers.arguments))
    if optimizer is not None:
        keep_updates(run, optimizer, changed, named, layers.file)
    moved = _take_sources(recipe, run, old, changed)
    new_values = nested({key: new for key, (_, new) in (changed | moved).items()})
    try:
        with _naming_file(run.settings_file, new_values):
            settings = resolve(recipe.settings_class, new_values, base=old)
        updates = {key for key in changed if is_of_updates(key, optimizer or settings.optim)}  # type: ignore[attr-defined]
    except ConfigError as error:
        # A misspelled key is reported as such, not as a setting that a resume cannot change.
        if error.where in changed:
            raise
        check_changes(changed, run.path, recipe.kind)
        raise
    if restart and (refused := sorted(changed.keys() - CHANGEABLE_ON_RESUME)):
        raise CompatibilityError(
            "a run that starts again keeps its settings",
            where=run.path,
            found=", ".join(f"{key} = {changed[key][1]!r}" for key in refused),
            fix="For others, start a new run with another --out.",
        )
    check_changes(changed, run.path, recipe.kind, updates)
    if unnamed := {key: changed[key] for key in updates - named}:
        raise unnamed_error(unnamed, layers.path or run.path, run.path, recipe.kind)
    return Request(run, settings, changed | moved, resumes=True, restarts=restart, named=named)


def _used_before(recipe: Recipe[S, Any, Any], old: Mapping[str, Any], layers: Layers) -> dict[str, Any]:
    """Return preset and file without what had no effect when the run started: its run.toml lacks these keys."""
    below = of_named_members(recipe.settings_class, merge(layers.preset, layers.file), layers.arguments)
    try:
        known = flatten(validate(recipe.settings_class, old).model_dump(mode="json"))
    except ConfigError:  # reported with the request
        return below
    return without_keys(below, {key for key, value in known.items() if value is not None} - flatten(old).keys())


def _take_sources(
    recipe: Recipe[S, Any, Any], run: RunDirectory, old: Mapping[str, Any], changed: dict[str, tuple[Any, Any]]
) -> dict[str, tuple[Any, Any]]:
    """Remove the run's inputs from the changed settings, and return those that were moved to another place."""
    moved = {}
    for key in recipe.source_keys:
        before, now = changed.get(key, (None, None))
        if now is None:
            continue
        if recipe.is_same_source(key, before, now, old):
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
