"""Run a recipe in its run directory: lock, prepare, resolve every auto, resume, train, evaluate, report.

Pre-training, fine-tuning and alignment differ in their recipes only; everything around the loop happens here. A run
that was killed is resumed from its newest whole checkpoint, a finished run is not trained again, and a failed run
leaves a state and a report that say why.
"""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from firstlight import parallel, progress
from firstlight.config import Settings, flatten, used_settings, without_keys
from firstlight.errors import Interrupted, escape
from firstlight.files import atomic_directory, write_manifest
from firstlight.parallel import DeviceContext
from firstlight.runs.compatibility import (
    again_command,
    check_fixed_settings,
    code_hash,
    describe_changes,
    fixed_settings,
    repeatable_settings,
    settings_hash,
)
from firstlight.runs.directory import RunDirectory, read_json_object, write_json
from firstlight.runs.recipe import Recipe, RunResult
from firstlight.runs.request import Request
from firstlight.runs.resume import (
    check_moved_sources,
    log_changes,
    move_training_aside,
    pass_stop_after,
    restore_run,
    without_stop_after,
)
from firstlight.runs.sources import absolute_sources
from firstlight.runs.updates import PENDING
from firstlight.shell import command_in_folder
from firstlight.signals import deliver_again
from firstlight.train import LiveReport, TrainContext, fit

S = TypeVar("S", bound=Settings)
A = TypeVar("A")
R = TypeVar("R", bound=RunResult)


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
    with parallel.adapt_spinning():
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
                artifacts = None if result else _prepare(recipe, request, prepared=request.resumes, restores=restores)
                parallel.barrier(device_context)
            else:
                parallel.barrier(device_context)  # rank 0 makes what the others read
                result = _finished_result(recipe, request)
                artifacts = None if result else _prepare(recipe, request, prepared=True, restores=restores)
            if result is not None:
                return result
            assert artifacts is not None
            return _train(recipe, request, artifacts, device_context, process_start, write_report)
    finally:
        parallel.destroy_distributed(device_context)


def _prepare(recipe: Recipe[S, A, Any], request: Request[S], *, prepared: bool, restores: bool) -> A:
    with progress.task("prepare the data"):
        return recipe.prepare(request.run, request.settings, prepared=prepared, restores=restores)


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
    with progress.task("build the model"):
        ctx = recipe.build(run, settings, artifacts, device_context, process_start)
    resolved = resolve_autos(settings, ctx)
    _report_autos(request.settings, resolved if main else None)
    # Read with the names that the user gave, which messages repeat; stored so that they hold from any folder.
    settings = absolute_sources(resolved, recipe.source_keys)
    ctx.compatibility["kind"] = recipe.kind
    ctx.compatibility["code"] = code_hash(*recipe.packages)
    unwritten = recipe.unwritten_settings(settings, artifacts)
    used = without_keys(used_settings(settings), unwritten)
    ctx.compatibility["fixed_settings"] = fixed_settings(used, ctx.optim, recipe.source_keys)
    ctx.compatibility["repeatable_settings"] = repeatable_settings(used, ctx.optim)
    ctx.compatibility["settings"] = settings_hash(ctx.compatibility["fixed_settings"])
    if request.restarts:
        before = read_json_object(run.compatibility_file).get("fixed_settings")
        check_fixed_settings(before if isinstance(before, dict) else {}, ctx.compatibility["fixed_settings"], run.path)
        check_moved_sources(recipe, request, ctx)
        parallel.barrier(device_context)
        if main:
            move_training_aside(run)
        parallel.barrier(device_context)
    elif request.resumes:
        with progress.task("read the checkpoint"):
            restore_run(recipe, request, ctx)
        settings = pass_stop_after(request, settings, ctx)
    if main:
        if request.changed:  # from here on the run has the new values, also if it is killed before run.toml has them
            write_json(run.compatibility_file, {**ctx.compatibility, PENDING: True})
        run.write_settings(settings, _header(recipe.kind, run, ctx), unwritten)
        write_json(run.compatibility_file, ctx.compatibility)
        log_changes(request, ctx)
        write_json(run.environment_file, _environment(run, ctx, goes_on=request.resumes and not request.restarts))
        run.write_state(kind=recipe.kind, status="running", step=ctx.counters.step)
        ctx.report = LiveReport(run.path, write_report)
    try:
        with parallel.peer_errors(device_context):
            fit_result = fit(ctx)
        if main and ctx.state.ema is not None:
            _export_ema(run, ctx)
        result = recipe.finish(run, settings, ctx, artifacts, fit_result)
        if main:
            if fit_result.stopped_by == "stop_after":  # the next process of the run goes on
                settings = without_stop_after(settings)
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
            _record_interruption(run, recipe.kind, ctx, error, write_report)
        raise
    return result


def _environment(run: RunDirectory, ctx: TrainContext, *, goes_on: bool) -> dict[str, Any]:
    """Describe software and hardware; of a run that goes on as it was, with what was measured before its first step."""
    now = {**parallel.environment(ctx.device_context), "peak_flops": ctx.peak_flops}
    before = read_json_object(run.environment_file) if goes_on else {}
    if any(before.get(key) != now[key] for key in ("device_name", "precision", "compile", "threads")):
        return now
    peak, reasons = before.get("peak_flops"), before.get("reasons")
    if isinstance(peak, int | float) and peak > 0:
        now["peak_flops"] = ctx.peak_flops = float(peak)
    if not now["trials"] and isinstance(before.get("trials"), list):
        now["trials"] = before["trials"]
        kept = reasons if isinstance(reasons, dict) else {}
        now["reasons"] = {**{k: v for k, v in kept.items() if k in ("precision", "compile")}, **now["reasons"]}
    return now


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


def _report_autos(requested: Settings, resolved: Settings | None) -> None:
    """Say with --verbose what every ``auto`` has become; the first process does."""
    if resolved is None:
        return
    values = flatten(used_settings(resolved))
    autos = [key for key, value in flatten(used_settings(requested)).items() if value == "auto"]
    chosen = [f"{key}={values[key]}" for key in autos if values.get(key, "auto") != "auto"]
    if chosen:
        progress.detail(f"chosen automatically: {', '.join(chosen)}")


def _all_settings_hash(settings: Settings) -> str:
    return settings_hash(flatten(used_settings(settings)))


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
    run: RunDirectory,
    kind: str,
    ctx: TrainContext,
    error: Interrupted | KeyboardInterrupt,
    write_report: Callable[[Path], object],
) -> None:
    """Write state and report of a run that a signal ended before or after training, such as in its last evaluation."""
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
        write_report(run.path)
