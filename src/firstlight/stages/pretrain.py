"""``pretrain``: corpus to model. The settings of a run and the wiring of its rooms."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight import parallel, progress
from firstlight.config import dump_toml
from firstlight.errors import ContractError, FirstlightError, UsageError
from firstlight.files import code_hash, remove_stale_files, write_atomic
from firstlight.model import ModelConfig
from firstlight.runs.compatibility import settings_hash
from firstlight.stages import pretrain_setup
from firstlight.stages import request as requests
from firstlight.stages.artifacts import Materials, materials
from firstlight.stages.settings import PretrainSettings
from firstlight.train import TrainContext, ValidResult, fit, read_table, restore

if TYPE_CHECKING:
    from firstlight.planning import Plan


_LIMITS = frozenset({"train.steps", "train.tokens", "train.epochs", "train.minutes", "train.convergence.evaluations"})


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """What a pre-training run came to.

    Attributes:
        stopped_by: the limit or signal that ended it.
        finished: False where a signal ended it, so that --resume goes on.
        valid_loss: nats a target, or None where no evaluation was made.
        bits_per_byte: of text; other sequences have bits_per_token, or of images bits_per_dim.
        report: the page, or None in processes other than the first.
    """

    run: Path
    stopped_by: str
    finished: bool
    step: int
    tokens: int
    seconds: float
    valid_loss: float | None
    bits_per_byte: float | None
    report: Path | None
    bits_per_token: float | None = None
    bits_per_dim: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def pretrain(
    corpus: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    preset: str | None = None,
    start_from: str | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
) -> PretrainResult:
    """Train a GPT on a corpus, a token store or a RUN.toml, into a run directory.

    Args:
        corpus: files, folders, globs, named corpora; or one store; or one RUN.toml; or a run directory to resume.
        out: the run directory; by default ``runs/`` and the name of the first input.
        preset: a preset's name.
        start_from: a model whose weights to start from.
        resume: go on with the run that ``out`` holds; start where it holds none; do nothing where it has finished.
        overrides: ``key=value`` words.

    Raises:
        FirstlightError: bad input, or a run that cannot go on.
    """
    started = pretrain_setup.process_start()
    request = requests.resolve_request(
        corpus,
        out=None if out is None else Path(out),
        preset_name=preset,
        start_from=start_from,
        resume=resume,
        overrides=overrides,
    )
    device_context = parallel.resolve(request.settings.hardware)
    parallel.start(device_context)
    try:
        if not parallel.is_main(device_context):
            parallel.barrier(device_context)  # the first process holds the lock and makes what the others read
            return _already_finished(request) or _run(request, device_context, started)
        with pretrain_setup.locked(request.run):
            remove_stale_files(request.run)
            finished = _already_finished(request)
            made = None if finished else materials(request.run, request.settings, prepared=request.resumes)
            parallel.barrier(device_context)
            return finished or _run(request, device_context, started, made)
    finally:
        parallel.stop(device_context)


def dry_run(
    corpus: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    preset: str | None = None,
    start_from: str | None = None,
    overrides: Sequence[str] = (),
) -> "Plan":
    """Check everything that ``pretrain`` would, take a few steps in memory, and return the plan; write nothing."""
    request = requests.resolve_request(
        corpus,
        out=None if out is None else Path(out),
        preset_name=preset,
        start_from=start_from,
        resume=False,
        overrides=overrides,
    )
    from firstlight.stages import dry_run

    return dry_run.dry_run_plan(request)


def _already_finished(request: requests.Request) -> PretrainResult | None:
    """Return the result of a run that has reached its limits, or None."""
    path = request.run / "state.json"
    if not (request.resumes and path.is_file()):
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    if state.get("status") != "finished" or request.changed:
        return None
    progress.notice(f"{request.run} has finished already (by {state['stopped_by']}, step {state['step']})")
    result: dict[str, Any] = state["result"]
    return PretrainResult(**{**result, "run": Path(result["run"]), "report": request.run / "report.html"})


def _run(
    request: requests.Request, device_context: parallel.DeviceContext, started: float, made: Materials | None = None
) -> PretrainResult:
    run, main = request.run, parallel.is_main(device_context)
    made = made or materials(run, request.settings, prepared=True)
    config = pretrain_setup.model_config(request.settings, made)
    ctx = pretrain_setup.ctx(run, request.settings, config, made, device_context, started)
    settings = _resolved(request.settings, config, ctx, device_context)
    ctx.contract["settings"] = settings_hash(settings.model_dump(mode="json"))
    if request.resumes:
        _go_on(request, ctx)
        _check_limits(request, ctx)
    if main:
        _write_facts(request, settings, ctx, device_context)
    try:
        result = fit(ctx)
    except FirstlightError as error:
        if main:
            _tell_failure(ctx, error)
        raise
    valid = result.valid if isinstance(result.valid, ValidResult) else None
    bits: dict[str, Any] = {"bits_per_byte": None} | ({} if valid is None else valid.bits)
    answer = PretrainResult(
        run,
        result.stopped_by,
        result.finished,
        result.step,
        result.tokens,
        round(result.seconds, 2),
        None if valid is None else valid.loss,
        report=run / "report.html" if main else None,
        **bits,
    )
    if main:
        from firstlight.stages.finalize import conclude  # loaded at the end: training does not need it

        conclude(ctx, made, result, answer.to_json(), seed=settings.run.seed)
    return answer


def _resolved(
    settings: PretrainSettings, config: ModelConfig, ctx: TrainContext, device_context: parallel.DeviceContext
) -> PretrainSettings:
    """Write every auto down, so that the same file starts the same run."""
    hardware = settings.hardware.model_copy(
        update={
            # Of several processes each has a GPU of its own, so the number is not theirs to share.
            "device": str(device_context.device) if device_context.world_size == 1 else device_context.device.type,
            "precision": device_context.precision,
            "compile": "on" if device_context.compile else "off",
            "threads": device_context.threads,
        }
    )
    train = settings.train.model_copy(
        update={
            "micro_batch": ctx.state.counters.micro_rows,
            "steps": ctx.limits.steps if ctx.limits.named == "auto" else settings.train.steps,
        }
    )
    optimizer = settings.optim.resolve(device_context.device)
    model = settings.model.model_copy(update=config.model_dump())
    return settings.model_copy(update={"hardware": hardware, "train": train, "model": model, "optim": optimizer})


def _go_on(request: requests.Request, ctx: TrainContext) -> None:
    """Take up the newest whole checkpoint, check the contract, and cut the log back to it."""
    newest = ctx.checkpoints.newest_valid(ctx.device_context)
    if newest is None:
        ctx.log.truncate(-1)
        return
    before: dict[str, str] = read_table(newest)["contract"]
    others = {"tokenizer": "another tokenizer", "store": "another token store", "embeddings": "other word vectors"}
    for name, what in others.items():
        if before.get(name, "") != ctx.contract.get(name, ""):
            raise ContractError(
                f"the checkpoint was trained with {what}",
                where=newest,
                found=before.get(name, "")[:12],
                expected=ctx.contract.get(name, "")[:12],
                fix="Put the run's own files back, or start a new run with --from.",
            )
    restore(newest, ctx.state, ctx.device_context)
    ctx.log.truncate(ctx.counters.step)
    ctx.log.event(ctx.counters.step, "resume", f"going on from {newest.name}", warn=False)
    for key, (old, new) in request.changed.items():
        ctx.log.event(ctx.counters.step, "setting", f"{key} changed from {old} to {new}", warn=False)
    if before["code"] != code_hash():
        ctx.log.event(ctx.counters.step, "code", "Firstlight's own code has changed since this run was last saved")


def _check_limits(request: requests.Request, ctx: TrainContext) -> None:
    """Refuse a resume that sets a further limit but stands at another one: it would end at once, and seem to obey."""
    given = [key for key in request.changed if key in _LIMITS]
    reached = ctx.limits.reached(ctx.counters, ctx.train)
    if given and reached and not any(key.startswith(f"train.{reached}") for key in given):
        raise UsageError(
            f"the run has reached train.{reached} already, which ends it whatever {' and '.join(given)} may say",
            where=request.run,
            found=f"step {ctx.counters.step}",
            fix="Raise that limit too.",
        )


def _write_facts(
    request: requests.Request, settings: PretrainSettings, ctx: TrainContext, device_context: parallel.DeviceContext
) -> None:
    run = request.run
    header = f"Firstlight run {run.name}: every setting, resolved. The same file starts the same run again."
    write_atomic(run / "run.toml", dump_toml(settings, header=header))
    write_atomic(run / "contract.json", json.dumps(ctx.contract, indent=1))
    write_atomic(run / "environment.json", json.dumps(parallel.environment(device_context), indent=1))
    write_atomic(run / "state.json", json.dumps({"status": "running", "step": ctx.counters.step}))


def _tell_failure(ctx: TrainContext, error: FirstlightError) -> None:
    """Leave a state and a report that say how the run failed; a disk that refuses them must not hide the error."""
    state = {"status": "failed", "stopped_by": str(error), "step": ctx.counters.step, "seconds": ctx.counters.seconds}
    with suppress(FirstlightError, OSError):
        write_atomic(ctx.run / "state.json", json.dumps(state, indent=1))
        from firstlight.report import write_run_report  # loaded where it is needed: training does not

        write_run_report(ctx.run)
