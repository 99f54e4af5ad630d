"""Resume a run: restore its newest whole checkpoint after comparing what it was made with, and apply changed limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from firstlight import optim, parallel, progress
from firstlight.config import Settings
from firstlight.errors import CheckpointError, CompatibilityError, UsageError
from firstlight.files.json_lines import JsonLines
from firstlight.files.run_layout import METRICS
from firstlight.runs.compatibility import check_fixed_settings, list_changes
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

# Hashes that checkpoints of earlier versions lack.
_ADDED_HASHES = frozenset({"init_model", "replay"})


def move_training_aside(run: RunDirectory) -> None:
    """Move what was trained aside, once the data is known to be usable."""
    aside = run.move_training_aside()
    if aside is not None:
        progress.notice(f"{run.path} starts again at step 0; its checkpoints and logs are kept in {aside.name}")


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
    restore(newest, ctx.state, ctx.device_context)
    _check_limits(request, ctx)
    step = ctx.counters.step
    if changes := list_changes(before, ctx.compatibility["repeatable_settings"], step):
        ctx.compatibility["changed_settings"] = changes
    ctx.log.truncate(step, evaluated=ctx.counters.evaluated_step == step)
    ctx.log.event(step, "resume", f"resumed from {newest.name}", warn=False)
    if _LIMITS & request.changed.keys():
        _say_if_lr_rises(ctx)
    for key, (old, new) in request.changed.items():
        ctx.log.event(step, "setting", f"{key} changed from {old} to {new}", warn=False)
    if before.get("code") != ctx.compatibility["code"]:
        ctx.log.event(step, "code", "the source code of Firstlight has changed since this checkpoint was saved")


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


def _check_limits(request: Request[S], ctx: TrainContext) -> None:
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
