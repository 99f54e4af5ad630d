"""Run a recipe in its run directory: lock, prepare, resolve every auto, resume, train, evaluate, report.

Pre-training, fine-tuning and alignment differ in their recipes only; everything around the loop happens here. A run
that was killed is resumed from its newest whole checkpoint, a finished run is not trained again, and a failed run
leaves a state and a report that say why.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from firstlight import optim, parallel, progress
from firstlight.config import Settings, flatten, used_settings
from firstlight.errors import CheckpointError, CompatibilityError, Interrupted, UsageError, escape
from firstlight.files import atomic_directory, write_manifest
from firstlight.files.json_lines import JsonLines
from firstlight.files.run_layout import METRICS
from firstlight.parallel import DeviceContext
from firstlight.runs.compatibility import (
    again_command,
    check_fixed_settings,
    code_hash,
    describe_changes,
    fixed_settings,
    list_changes,
    repeatable_settings,
    settings_hash,
)
from firstlight.runs.directory import RunDirectory, read_json_object, write_json
from firstlight.runs.recipe import Recipe, RunResult
from firstlight.runs.request import Request
from firstlight.runs.sources import absolute_sources
from firstlight.shell import command_in_folder, command_line
from firstlight.signals import deliver_again
from firstlight.train import TrainContext, fit, read_trainer_state, restore

S = TypeVar("S", bound=Settings)
A = TypeVar("A")
R = TypeVar("R", bound=RunResult)

# Settings of which each can end a run.
_LIMITS = frozenset({"train.steps", "train.tokens", "train.epochs", "train.minutes", "train.convergence.evaluations"})


# Hashes that checkpoints of earlier versions lack.
_ADDED_HASHES = frozenset({"init_model", "replay"})


def run_recipe(
    recipe: Recipe[S, A, R], request: Request[S], *, process_start: float, write_report: Callable[[Path], object]
) -> R:
    """Train, or resume, the run that is requested.

    A signal ends training after the current step. In a program that is not our command line it is delivered again when
    the run has been saved: Ctrl-C raises ``KeyboardInterrupt``, and the program's own handlers see the others.

    Args:
        recipe: the kind of run.
        request: its directory and settings.
        process_start: ``time.perf_counter()`` when the process began; the run's clock starts there.
        write_report: writes the report of a run directory.

    Raises:
        FirstlightError: bad input, or a run that cannot continue.
    """
    result = _run(recipe, request, process_start, write_report)
    if result.interrupted_by is not None:
        deliver_again(result.interrupted_by)
    return result


def _run(
    recipe: Recipe[S, A, R], request: Request[S], process_start: float, write_report: Callable[[Path], object]
) -> R:
    device_context = parallel.resolve_hardware(request.settings.hardware)  # type: ignore[attr-defined]  # of every recipe
    parallel.init_distributed(device_context)
    main = parallel.is_main_process(device_context)
    # As in ``_resume``, which raises where something was saved and no checkpoint can be read.
    restores = request.resumes and not request.restarts and request.run.has_saved
    try:
        with parallel.peer_errors(device_context), request.run.lock() if main else nullcontext():
            if main:
                request.run.clean_up()
                if not request.resumes:
                    request.run.write_mark(recipe.kind)
                result = _finished_result(recipe, request)
                artifacts = (
                    None
                    if result
                    else recipe.prepare(request.run, request.settings, prepared=request.resumes, restores=restores)
                )
                parallel.barrier(device_context)
            else:
                parallel.barrier(device_context)  # rank 0 makes what the others read
                result = _finished_result(recipe, request)
                artifacts = (
                    None if result else recipe.prepare(request.run, request.settings, prepared=True, restores=restores)
                )
            if result is not None:
                return result
            assert artifacts is not None
            return _train(recipe, request, artifacts, device_context, process_start, write_report)
    finally:
        parallel.destroy_distributed(device_context)


def _finished_result(recipe: Recipe[S, A, R], request: Request[S]) -> R | None:
    """Return the result of a run that has reached its limits, unless the request changes its settings."""
    run = request.run
    if not request.resumes or request.changed or request.restarts:
        return None
    state = run.read_state()
    if state.get("status") != "finished":
        return None
    if state.get("settings", now := _all_settings_hash(request.settings)) != now:
        return None  # run.toml was edited since
    table = state.get("result")
    try:
        result = recipe.result_class.from_json(table if isinstance(table, dict) else {}, request.run)
    except ValueError:  # damaged: the end of the run is repeated from its last checkpoint
        return None
    if not (run.checkpoints / f"step-{result.step:08d}").is_dir():
        return None
    progress.notice(f"{run.path} has finished already ({result.stopped_by}, step {result.step})")
    return result


def _train(
    recipe: Recipe[S, A, R],
    request: Request[S],
    artifacts: A,
    device_context: DeviceContext,
    process_start: float,
    write_report: Callable[[Path], object],
) -> R:
    run, main = request.run, parallel.is_main_process(device_context)
    settings = recipe.resolve(request.settings, artifacts, device_context)
    ctx = recipe.build(run, settings, artifacts, device_context, process_start)
    # Read with the names that the user gave, which messages repeat; stored so that they hold from any folder.
    settings = absolute_sources(resolve_autos(settings, ctx), recipe.source_keys)
    ctx.compatibility["kind"] = recipe.kind
    ctx.compatibility["code"] = code_hash(*recipe.packages)
    ctx.compatibility["fixed_settings"] = fixed_settings(used_settings(settings), recipe.source_keys)
    ctx.compatibility["repeatable_settings"] = repeatable_settings(used_settings(settings))
    ctx.compatibility["settings"] = settings_hash(ctx.compatibility["fixed_settings"])
    if request.restarts:
        before = read_json_object(run.compatibility_file).get("fixed_settings")
        check_fixed_settings(before if isinstance(before, dict) else {}, ctx.compatibility["fixed_settings"], run.path)
        _check_moved(recipe, request, ctx)
        parallel.barrier(device_context)
        if main:
            _restart(run)
        parallel.barrier(device_context)
    elif request.resumes:
        _resume(recipe, request, ctx)
        settings = _pass_stop(request, settings, ctx)
    if main:
        unwritten = recipe.unwritten_settings(settings, artifacts)
        run.write_settings(settings, _header(recipe.kind, run, ctx), unwritten)
        write_json(run.compatibility_file, ctx.compatibility)
        write_json(run.environment_file, parallel.environment(device_context))
        run.write_state(kind=recipe.kind, status="running", step=ctx.counters.step)
    try:
        with parallel.peer_errors(device_context):
            fit_result = fit(ctx)
        if main and ctx.state.ema is not None:
            _export_ema(run, ctx)
        result = recipe.finish(run, settings, ctx, artifacts, fit_result)
        if main:
            if fit_result.stopped_by == "stop_after":  # the next process of the run goes on
                settings = _without_stop(settings)
                run.write_settings(settings, _header(recipe.kind, run, ctx), unwritten)
            run.write_state(
                kind=recipe.kind,
                status=fit_result.status,
                stopped_by=fit_result.stopped_by,
                step=fit_result.step,
                seconds=fit_result.seconds,
                settings=_all_settings_hash(settings),
                result=result.to_json(),
            )
            write_report(run.path)
        if fit_result.status == "interrupted":
            # A launcher ends all processes when the first one exits with a failure, as one does after a signal.
            parallel.barrier(device_context)
    except Exception as error:
        if main:
            _record_failure(run, recipe.kind, ctx, error, write_report)
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        if main:
            _record_interruption(run, recipe.kind, ctx, error)
        raise
    return result


def _header(kind: str, run: RunDirectory, ctx: TrainContext) -> str:
    """Return the comment of run.toml: what the file is, and a command to run in its folder."""
    first = f"Firstlight run {escape(run.path.absolute().name)}: every setting, resolved."
    if changes := describe_changes(ctx.compatibility):
        return (
            f"{first}\nSettings were changed during the run: {escape(changes)}.\n"
            "So this file does not repeat the run from the start. To continue the run, in this folder:\n"
            f"{command_in_folder(kind, '.', '--resume')}"
        )
    return f"{first}\nThe same file starts the same run again; in this folder:\n{again_command(kind, run.path)}"


def resolve_autos(settings: S, ctx: TrainContext) -> S:
    """Resolve every ``auto`` of hardware, training and optimizer, so that the same file starts the same run."""
    tables: Any = settings
    device_context = ctx.device_context
    hardware = tables.hardware.model_copy(
        update={
            # Each of several processes has a GPU of its own, so the index is not stored.
            "device": str(device_context.device) if device_context.world_size == 1 else device_context.device.type,
            "precision": device_context.precision,
            "compile": "on" if device_context.compile else "off",
            "threads": device_context.threads,
        }
    )
    train = tables.train.model_copy(
        update={
            "micro_batch": ctx.state.counters.micro_batch
            if tables.train.micro_batch == "auto"
            else tables.train.micro_batch,
            "steps": ctx.limits.steps if ctx.limits.name == "auto" else tables.train.steps,
        }
    )
    optimizer = tables.optim.resolve(device_context.device)
    return settings.model_copy(update={"hardware": hardware, "train": train, "optim": optimizer})


def _all_settings_hash(settings: Settings) -> str:
    return settings_hash(flatten(used_settings(settings)))


def _restart(run: RunDirectory) -> None:
    """Move what was trained aside, once the data is known to be usable."""
    aside = run.move_training_aside()
    if aside is not None:
        progress.notice(f"{run.path} starts again at step 0; its checkpoints and logs are kept in {aside.name}")


def _resume(recipe: Recipe[S, A, R], request: Request[S], ctx: TrainContext) -> None:
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
        _check_moved(recipe, request, ctx)
        if main and request.run.logs_beyond(ctx.train.checkpoint_every):
            _restart(request.run)
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


def _check_moved(recipe: Recipe[S, A, R], request: Request[S], ctx: TrainContext) -> None:
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


def _pass_stop(request: Request[S], settings: S, ctx: TrainContext) -> S:
    """Return the settings of a resumed run without a ``train.stop_after`` at which it has stopped before.

    Raises:
        UsageError: the command names a step that the run is beyond.
    """
    stop, step = ctx.train.stop_after, ctx.counters.step
    if not stop or step < stop:
        return settings
    if "train.stop_after" not in request.changed:
        settings = _without_stop(settings)
        ctx.train = settings.train  # type: ignore[attr-defined]  # of every recipe
    elif step > stop:
        raise UsageError(
            "the run is beyond this step already",
            where="train.stop_after",
            found=f"{stop} at step {step}",
            fix="Name a later step, or leave it out.",
        )
    return settings


def _without_stop(settings: S) -> S:
    train = settings.train.model_copy(update={"stop_after": 0})  # type: ignore[attr-defined]  # of every recipe
    return settings.model_copy(update={"train": train})


def _export_ema(run: RunDirectory, ctx: TrainContext) -> None:
    """Write the averaged weights as a model directory of their own."""
    assert ctx.state.ema is not None
    with ctx.state.ema.average_parameters(), atomic_directory(run.ema) as folder:
        ctx.checkpoints.write_model(folder, ctx.state.weight_format.export(ctx.state.model))
        write_manifest(folder)


def _record_failure(
    run: RunDirectory, kind: str, ctx: TrainContext, error: Exception, write_report: Callable[[Path], object]
) -> None:
    """Write a state and a report that say how the run failed; whatever fails here must not hide the first error."""
    if run.was_deleted:
        return
    with suppress(Exception):
        run.write_state(
            kind=kind, status="failed", stopped_by=str(error), step=ctx.counters.step, seconds=ctx.counters.seconds
        )
        write_report(run.path)


def _record_interruption(
    run: RunDirectory, kind: str, ctx: TrainContext, error: Interrupted | KeyboardInterrupt
) -> None:
    """Write the state of a run that a signal ended before or after training, such as in its final evaluation."""
    stopped_by = error.signal_name if isinstance(error, Interrupted) else "SIGINT"
    if run.was_deleted:
        return
    with suppress(Exception):
        run.write_state(
            kind=kind,
            status="interrupted",
            stopped_by=stopped_by,
            step=ctx.counters.step,
            seconds=ctx.counters.seconds,
        )
