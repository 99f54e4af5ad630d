"""Resume a run: restore its newest whole checkpoint after comparing what it was made with, and apply changed limits."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from firstlight import optim, parallel, progress
from firstlight.config import Settings, format_override
from firstlight.errors import CheckpointError, CompatibilityError, UsageError
from firstlight.files.json_lines import JsonLines
from firstlight.files.run_layout import METRICS
from firstlight.runs.compatibility import (
    check_fixed_settings,
    describe_changes,
    is_of_updates,
    list_changes,
    recorded_settings,
    shown_value,
)
from firstlight.runs.directory import RunDirectory, read_json_object
from firstlight.runs.recipe import Recipe, RunResult
from firstlight.runs.request import Request
from firstlight.shell import command_line
from firstlight.train import TrainContext, read_trainer_state, restore

S = TypeVar("S", bound=Settings)
A = TypeVar("A")
R = TypeVar("R", bound=RunResult)

# Settings of which each can end a run.
_LIMITS = frozenset({"train.steps", "train.tokens", "train.epochs", "train.minutes", "train.convergence.evaluations"})

_CHANGE = re.compile(r"(?P<key>[\w.]+) changed from .* to (?P<new>.*)", re.DOTALL)

# Hashes that checkpoints of earlier versions lack.
_ADDED_HASHES = frozenset({"init_model", "replay"})


def move_training_aside(run: RunDirectory) -> None:
    """Move what was trained aside, once the data is known to be usable."""
    changes = describe_changes(read_json_object(run.compatibility_file))
    aside = run.move_training_aside()
    if aside is not None:
        progress.notice(f"{run.path} starts again at step 0; its checkpoints and logs are kept in {aside.name}")
        if changes:
            progress.notice(f"it keeps the settings that were changed during the run: {changes}")


def restore_run(recipe: Recipe[S, A, R], request: Request[S], ctx: TrainContext) -> None:
    """Restore the newest whole checkpoint, after comparing its hashes, and cut the logs back to it."""
    main = parallel.is_main_process(ctx.device_context)
    if main and request.run.state_file.exists() and not isinstance(request.run.read_state().get("status"), str):
        progress.warn(f"{request.run.state_file} is damaged; it is rewritten")
    has_saved = request.run.has_saved  # before damaged checkpoints are renamed
    newest = ctx.checkpoints.find_latest(ctx.device_context)
    if newest is None:
        if has_saved:
            raise CheckpointError(
                "the run has been trained, but none of its checkpoints can be read, so it cannot be resumed",
                where=request.run.checkpoints,
                found="only damaged ones" if any(request.run.checkpoints.glob("damaged-*")) else "none",
                fix="Put a checkpoint back, or start again at step 0: "
                f"{command_line(recipe.kind, request.run.path, '--restart')}",
            )
        check_moved_sources(recipe, request, ctx)
        if main and request.run.logs_beyond(ctx.train.checkpoint_every):
            move_training_aside(request.run)
        ctx.log.truncate(-1)
        ctx.log.event(0, "resume", "no checkpoint had been saved: starting again at step 0", warn=False)
        return
    before: dict[str, Any] = read_trainer_state(newest)["contract"]
    _check_hashes(recipe, before, ctx, newest)
    check_fixed_settings(before.get("fixed_settings", {}), ctx.compatibility["fixed_settings"], newest)
    _check_updates(recipe.kind, request, before, ctx, newest)
    restore(newest, ctx.state, ctx.device_context)
    _check_limits(recipe.kind, request, ctx)
    step = ctx.counters.step
    if changes := list_changes(before, ctx.compatibility["repeatable_settings"], step):
        ctx.compatibility["changed_settings"] = changes
    ctx.log.truncate(step, evaluated=ctx.counters.evaluated_step == step)
    ctx.log.event(step, "resume", f"resumed from {newest.name}", warn=False)
    if _LIMITS & request.changed.keys():
        _say_if_lr_rises(ctx)
    if before.get("code") != ctx.compatibility["code"]:
        ctx.log.event(step, "code", "the source code of Firstlight has changed since this checkpoint was saved")


def _check_updates(
    kind: str, request: Request[S], before: Mapping[str, Any], ctx: TrainContext, checkpoint: Path
) -> None:
    """Refuse a checkpoint that was trained with other settings of the updates than the run has, without a change.

    A run that changed them may have been killed before its next checkpoint: its record lists the change.

    Raises:
        CompatibilityError: names every setting that differs, with both values.
    """
    changes = read_json_object(request.run.compatibility_file).get("changed_settings")
    changes = [change for change in changes if isinstance(change, dict)] if isinstance(changes, list) else []
    known = {*request.named, *(str(change.get("key")) for change in changes)}
    trained_with = {
        k: v for k, v in recorded_settings(before).items() if is_of_updates(k, ctx.optim) and k not in known
    }
    now = ctx.compatibility["repeatable_settings"]
    values = [format_override(key, now[key]) for key, old in trained_with.items() if now.get(key, old) != old]
    command = command_line(kind, request.run.path, "--resume", *values)
    check_fixed_settings(trained_with, now, checkpoint, f"Set them back in run.toml, or change them: {command}")


def log_changes(request: Request[S], ctx: TrainContext) -> None:
    """Log an event for each setting that was changed, once the run has recorded the changes."""
    for key, (old, new) in request.changed.items():
        _log_change(ctx, ctx.counters.step, key, old, new)
    rates = [f"optim.{name}" for name in ctx.optim.lr_fields]
    if not request.changed.keys().isdisjoint(rates):
        for rate in (rate for rate in rates if rate not in request.changed):
            progress.notice(f"{rate} stays {getattr(ctx.optim, rate.removeprefix('optim.'))}")
    # Those of an edited run.toml, and of a process that was killed before it could log them.
    others = [c for c in ctx.compatibility.get("changed_settings", []) if c["key"] not in request.changed]
    logged = _logged_changes(request.run) if others else set()
    for change in others:
        if (change["step"], change["key"], str(change["new"])) not in logged:
            _log_change(ctx, change["step"], change["key"], change["old"], change["new"])


def _log_change(ctx: TrainContext, step: int, key: str, old: Any, new: Any) -> None:
    ctx.log.event(step, "setting", f"{key} changed from {shown_value(old)} to {new}", warn=False)


def _logged_changes(run: RunDirectory) -> set[tuple[int, str, str]]:
    """Return step, key and new value of the changes of settings in events.jsonl."""
    if not run.events.is_file():
        return set()
    with run.events.open("rb") as file:
        events = [event for _, event in JsonLines(file) if event.get("kind") == "setting"]
    found = ((event.get("step"), _CHANGE.fullmatch(str(event.get("text")))) for event in events)
    return {(step, match["key"], match["new"]) for step, match in found if match and isinstance(step, int)}


def _say_if_lr_rises(ctx: TrainContext) -> None:
    """Say that a longer schedule raises the learning rate again, which first undoes a part of what was learnt."""
    if not parallel.is_main_process(ctx.device_context) or not (ctx.run / METRICS).is_file():
        return
    with (ctx.run / METRICS).open("rb") as file:
        rates = [line["lr"] for _, line in JsonLines(file) if isinstance(line.get("lr"), float)]
    if not rates:
        return
    before, base = rates[-1], float(ctx.state.optimizer.param_groups[0]["initial_lr"])
    after = base * optim.lr_factor(ctx.counters.step, ctx.limits.schedule_steps(ctx.counters), ctx.optim.schedule)
    if before < 0.95 * max(rates) and after > 1.05 * before:  # not in the warm-up
        text = f"the learning rate rises again, from {before:.3g} to {after:.3g}, since the run is to be longer"
        ctx.log.event(ctx.counters.step, "learning-rate", text)


def _check_hashes(recipe: Recipe[S, A, R], before: Mapping[str, Any], ctx: TrainContext, where: Path) -> None:
    """Refuse artifacts other than those that the checkpoint, or the run, was made with."""
    for name, other in recipe.hashed_artifacts.items():
        if name in _ADDED_HASHES and name not in before:
            continue
        if before.get(name, "") != ctx.compatibility.get(name, ""):
            raise CompatibilityError(
                f"the checkpoint was trained with {other}",
                where=where,
                found=before.get(name, "")[:12],
                expected=ctx.compatibility.get(name, "")[:12],
                fix="Put the original files back, or start a new run with another --out.",
            )


def check_moved_sources(recipe: Recipe[S, A, R], request: Request[S], ctx: TrainContext) -> None:
    """Check inputs that were moved, where no checkpoint is compared, by the hashes of the run's start."""
    before = read_json_object(request.run.compatibility_file)
    if before and any(key in recipe.verified_keys for key in request.changed):
        _check_hashes(recipe, before, ctx, request.run.path)


def _longer_command(kind: str, request: Request[S], ctx: TrainContext, reached: str) -> str:
    """Return the command that resumes a run with the changed settings and twice the limit that it has reached."""
    if reached in ("tokens", "epochs", "minutes"):
        longer = format_override(f"train.{reached}", 2 * getattr(ctx.train, reached))
    elif reached == "convergence":
        longer = format_override("train.convergence.evaluations", ctx.train.convergence.evaluations + 5)
    else:
        longer = format_override("train.steps", 2 * ctx.counters.step)
    values = (format_override(key, new) for key, (_, new) in request.changed.items())
    return command_line(kind, request.run.path, "--resume", longer, *values)


def _check_limits(kind: str, request: Request[S], ctx: TrainContext) -> None:
    """Refuse a resume that sets a limit which the run is beyond, or raises one while another one is reached.

    It would end at once, and seem to obey.
    """
    given = [key for key in request.changed if key in _LIMITS]
    counters, limits = ctx.counters, ctx.limits
    reached = limits.reached(counters, ctx.train)
    if given and reached and not any(key.startswith(f"train.{reached}") for key in given):
        raise UsageError(
            f"the run has already reached train.{reached}, which ends it whatever the value of {' and '.join(given)}",
            where=request.run.path,
            found=f"step {counters.step}",
            fix="Raise that limit too.",
        )
    updates = [key for key in request.changed if is_of_updates(key, ctx.optim)]
    if updates and reached and not given:
        raise UsageError(
            "the run has ended, so no step would be taken with the new value",
            where=", ".join(updates),
            found=f"train.{reached} reached at step {counters.step}",
            fix=f"Raise that limit in the same command: {_longer_command(kind, request, ctx, reached)}",
        )
    is_beyond = limits.steps is not None and counters.step > limits.steps
    if given and reached and (is_beyond or reached == "minutes"):
        spent = f"{counters.seconds / 60:.2f} minutes" if reached == "minutes" else f"step {counters.step}"
        raise UsageError(
            "the run has already trained for longer than that",
            where=f"train.{reached}",
            found=f"{request.changed[f'train.{reached}'][1]} at {spent}",
            fix="Raise it, or leave it out.",
        )
    if reached and is_beyond:
        progress.notice(f"{request.run.path} is at step {counters.step}, beyond its limit of {limits.steps} steps")
    elif reached and request.changed and not given:
        progress.notice(f"{request.run.path} has reached train.{reached} at step {counters.step}: it trains no further")


def pass_stop_after(request: Request[S], settings: S, ctx: TrainContext) -> S:
    """Return the settings of a resumed run without a ``train.stop_after`` at which it has stopped before.

    Raises:
        UsageError: the command names a step that the run is beyond.
    """
    stop, step = ctx.train.stop_after, ctx.counters.step
    if not stop or step < stop:
        return settings
    if "train.stop_after" not in request.changed:
        settings = without_stop_after(settings)
        ctx.train = settings.train  # type: ignore[attr-defined]  # of every recipe
    elif step > stop:
        raise UsageError(
            "the run is beyond this step already",
            where="train.stop_after",
            found=f"{stop} at step {step}",
            fix="Name a later step, or leave it out.",
        )
    return settings


def without_stop_after(settings: S) -> S:
    """Return the settings without ``train.stop_after``, so that the next process of the run goes on."""
    train = settings.train.model_copy(update={"stop_after": 0})  # type: ignore[attr-defined]  # of every recipe
    return settings.model_copy(update={"train": train})
