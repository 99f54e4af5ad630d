"""``finetune``: a pre-trained model learns labelled tasks, in the loop and the run directory of pre-training."""

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstlight import parallel, progress
from firstlight.config import dump_toml, merge, parse_overrides, preset, read_toml, resolve
from firstlight.errors import ContractError, FirstlightError, UsageError
from firstlight.files import remove_stale_files, write_atomic
from firstlight.finetuning import EvalResults, TaskSpec
from firstlight.lm import LM
from firstlight.runs.compatibility import changed_settings, check_changes, settings_hash
from firstlight.stages import finetune_setup, pretrain_setup
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.train import FitResult, fit, restore

PRESETS = "firstlight.stages.presets.finetune"
_DEFAULT = "full"
_DRAWS = 1000
# What a run has that was cut off before its settings were written.
_FIRST = frozenset({".lock", finetune_setup.TASKS})
# Of the pre-training learning rate: a small step keeps what was learnt.
_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a fine-tuning run came to.

    Attributes:
        stopped_by: the limit or signal that ended it.
        finished: False where a signal ended it, so that --resume goes on.
        valid, test: for each task its figures (``TaskMetrics`` as a table), of the best checkpoint.
        forgetting: loss on the pre-training valid split before and after, where that split is there.
        report: the page, or None in processes other than the first.
    """

    run: Path
    stopped_by: str
    finished: bool
    step: int
    seconds: float
    valid: dict[str, Any]
    test: dict[str, Any]
    forgetting: dict[str, float] | None
    report: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def finetune(
    start_from: str | Path | None = None,
    tasks: Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    preset: str | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
) -> FinetuneResult:
    """Fine-tune a model on tasks, into a run directory.

    Args:
        start_from: a run, checkpoint or Hugging Face directory; or a fine-tuning run to resume.
        tasks: TASK.toml files.
        out: the run directory; by default ``runs/`` and the names of start and tasks.
        data: folder of the tasks' data folders.
        preset: full, gpt1, lora or probe.
        resume: go on with the run that ``out`` holds; start where it holds none; do nothing where it has finished.
        overrides: ``key=value`` words.

    Raises:
        FirstlightError: bad input, or a run that cannot go on.
    """
    started = pretrain_setup.process_start()
    run, settings, specs = _understand(start_from, tasks, out, data, preset, resume, overrides)
    device_context = parallel.resolve(settings.hardware)
    parallel.start(device_context)
    try:
        with pretrain_setup.locked(run) if parallel.is_main(device_context) else nullcontext():
            remove_stale_files(run)
            done = _finished(run) if specs is not None else None
            return done or _run(run, settings, specs, device_context, started)
    finally:
        parallel.stop(device_context)


def finetune_seeds(
    n: int,
    start_from: str | Path,
    tasks: Sequence[str | Path],
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Fine-tune with ``n`` seeds, each into ``out``/seed-N, and return mean, deviation and range of every metric.

    Raises:
        FirstlightError: as ``finetune``.
    """
    folder = Path(out)
    results = [
        finetune(start_from, tasks, out=folder / f"seed-{i}", overrides=[*overrides, f"run.seed={i}"], **more)
        for i in range(1, n + 1)
    ]
    summary: dict[str, Any] = {"seeds": n, "valid": {}, "test": {}}
    for side in ("valid", "test"):
        for task in getattr(results[0], side):
            figures = [getattr(r, side)[task] for r in results]
            values = [f["value"] for f in figures]
            summary[side][task] = {
                "metric": figures[0]["metric"],
                "mean": statistics.mean(values),
                "values": values,
                "deviation": statistics.stdev(values) if n > 1 else 0.0,
            }
    write_atomic(folder / "seeds.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _understand(
    start_from: str | Path | None,
    tasks: Sequence[str | Path],
    out: str | Path | None,
    data: str | Path | None,
    preset_name: str | None,
    resume: bool,
    overrides: Sequence[str],
) -> tuple[Path, FinetuneSettings, list[TaskSpec] | None]:
    """Return the run directory, the settings, and the tasks of a run that goes on."""
    named = None if start_from is None else Path(start_from)
    if resume and not tasks and out is None and named is not None and (named / finetune_setup.TASKS).is_file():
        out, named = named, None
    asked: dict[str, Any] = parse_overrides(overrides)
    given = {
        "start_from": None if named is None else str(named),
        "tasks": [str(t) for t in tasks],
        "data": None if data is None else str(data),
    }
    asked = merge({"run": {k: v for k, v in given.items() if v}}, asked)
    run = Path(out) if out is not None else Path("runs") / _name(named, tasks)
    if (run / "run.toml").is_file():
        return run, *_existing(run, asked, resume=resume)
    if run.exists() and (
        not run.is_dir() or any(p.name not in _FIRST and ".part-" not in p.name for p in run.iterdir())
    ):
        raise UsageError("exists and is not a fine-tuning run", where=run, fix="Choose another --out.")
    below = preset(PRESETS, preset_name or _DEFAULT)
    if preset_name is None:
        below = merge(below, _learning_rate(asked))
    settings = resolve(FinetuneSettings, merge(below, asked))
    if settings.run.start_from is None or not settings.run.tasks:
        raise UsageError(
            "nothing to fine-tune",
            expected="a RUN and one or more TASK.toml files",
            fix="Try: firstlight finetune runs/mine sst2.toml --out runs/sst2",
        )
    return run, settings, None


def _learning_rate(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tenth of the rate that the starting run was trained with, where its settings say that."""
    start = Path(str(asked.get("run", {}).get("start_from") or ""))
    tables = [folder / "run.toml" for folder in (start, start.parent.parent) if (folder / "run.toml").is_file()]
    if not tables or "lr" in asked.get("optim", {}):
        return {}
    table = read_toml(tables[0]).get("optim")
    if not table:
        return {}
    try:
        rate = resolve(FinetuneSettings, {"optim": table}).optim.equivalent_adamw_lr
    except UsageError as error:
        progress.notice(f"the learning rate of the starting run is unknown, so the preset's is used: {error}")
        return {}
    if rate is None:
        return {}
    progress.notice(f"learning rate {rate * _SHARE:.3g}: a tenth of the pre-training one (set optim.lr to change it)")
    return {"optim": {"lr": rate * _SHARE}}


def _existing(run: Path, asked: Mapping[str, Any], *, resume: bool) -> tuple[FinetuneSettings, list[TaskSpec]]:
    if not (run / finetune_setup.TASKS).is_file():
        raise UsageError("holds a run that is no fine-tuning", where=run, fix="Choose another --out.")
    if not resume:
        raise ContractError(
            "holds a run already", where=run, fix="Add --resume to go on with it, or choose another --out."
        )
    old = read_toml(run / "run.toml")
    differing = changed_settings(old, asked)
    for key in ("run.start_from", "run.tasks", "run.data"):
        before, now = differing.pop(key, (None, None))
        if now is not None and _places(before) != _places(now):
            raise ContractError("holds a run on something else", where=run, found=before, expected=now)
    check_changes(differing, run)
    tables = json.loads((run / finetune_setup.TASKS).read_text(encoding="utf-8"))
    specs = [TaskSpec.model_validate(table) for table in tables]
    return resolve(FinetuneSettings, merge(old, _nested(differing))), specs


def _nested(differing: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return parse_overrides(f"{key}={json.dumps(new)}" for key, (_, new) in differing.items())


def _places(value: Any) -> list[Path]:
    return [Path(str(name)).absolute() for name in (value if isinstance(value, list) else [value])]


def _name(start: Path | None, tasks: Sequence[str | Path]) -> str:
    return "-".join([*([start.name] if start is not None else []), *(Path(t).stem for t in tasks)]) or "finetune"


def _finished(run: Path) -> FinetuneResult | None:
    path = run / "state.json"
    state = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if state.get("status") != "finished":
        return None
    progress.notice(f"{run} has finished already (by {state['stopped_by']}, step {state['step']})")
    table = state["result"]
    return FinetuneResult(**{**table, "run": run, "report": run / "report.html"})


def _run(
    run: Path,
    settings: FinetuneSettings,
    specs: list[TaskSpec] | None,
    device_context: parallel.DeviceContext,
    started: float,
) -> FinetuneResult:
    main = parallel.is_main(device_context)
    made = finetune_setup.materials(settings, tasks=specs)
    settings = finetune_setup.resolved(settings, made, device_context)
    ctx = finetune_setup.ctx(run, settings, made, device_context, started)
    ctx.contract["settings"] = settings_hash(settings.model_dump(mode="json"))
    newest = ctx.checkpoints.newest_valid(device_context) if specs is not None else None
    if newest is None:
        ctx.log.truncate(-1)
    else:
        before = restore(newest, ctx.state, device_context)["contract"]
        for name, what in (("tokenizer", "another tokenizer"), ("store", "other rows")):
            if before[name] != ctx.contract[name]:
                raise ContractError(
                    f"the checkpoint was trained with {what}",
                    where=newest,
                    found=before[name][:12],
                    expected=ctx.contract[name][:12],
                    fix="Put the files of model and tasks back as they were.",
                )
        ctx.log.truncate(ctx.counters.step)
    if main:
        header = f"Firstlight fine-tuning run {run.name}: every setting, resolved. The same settings start it again."
        write_atomic(run / finetune_setup.TASKS, finetune_setup.tasks_json(made.specs))
        write_atomic(run / "run.toml", dump_toml(settings, header=header))
        write_atomic(run / "contract.json", json.dumps(ctx.contract, indent=1))
        write_atomic(run / "environment.json", json.dumps(parallel.environment(device_context), indent=1))
        write_atomic(run / "state.json", json.dumps({"status": "running", "step": ctx.counters.step}))
        made.tokenizer.save(run / "tokenizer")
    if newest is None and main and not (run / "before.json").is_file():
        before_loss = finetune_setup.forgetting(ctx.state.model, made, device_context)
        write_atomic(run / "before.json", json.dumps({"loss": before_loss}))
    try:
        result = fit(ctx)
    except FirstlightError as error:
        if main:
            state = {"status": "failed", "stopped_by": str(error), "step": ctx.counters.step}
            write_atomic(run / "state.json", json.dumps(state, indent=1))
        raise
    return _conclude(run, made, device_context, result)


def _conclude(
    run: Path, made: finetune_setup.Materials, device_context: parallel.DeviceContext, result: FitResult
) -> FinetuneResult:
    """Evaluate the best checkpoint, and write figures and report."""
    main = parallel.is_main(device_context)
    valid, test, forgot = EvalResults({}, {}), EvalResults({}, {}), None
    if result.finished and main:
        model = LM.load_fp32(run).to(device_context).model
        valid = finetune_setup.measure(model, made, device_context, draws=_DRAWS)
        test = finetune_setup.measure(model, made, device_context, side=2, draws=_DRAWS)
        before = json.loads((run / "before.json").read_text(encoding="utf-8"))["loss"]
        if before is not None:
            forgot = {"before": before, "after": finetune_setup.forgetting(model, made, device_context) or before}
    answer = FinetuneResult(
        run,
        result.stopped_by,
        result.finished,
        result.step,
        round(result.seconds, 2),
        _tables(valid),
        _tables(test),
        forgot,
        run / "report.html" if main else None,
    )
    if not main:
        return answer
    figures = {
        "tasks": answer.valid,
        "test": answer.test,
        "forgetting": forgot,
        "notes": {name: data.notes for name, data in made.tasks.items()},
    }
    write_atomic(run / "evaluation.json", json.dumps(figures, indent=1, ensure_ascii=False))
    state = {
        "status": "finished" if result.finished else "stopped",
        "stopped_by": result.stopped_by,
        "step": result.step,
        "seconds": result.seconds,
        "result": answer.to_json(),
    }
    write_atomic(run / "state.json", json.dumps(state, indent=1))
    from firstlight.report import write_run_report  # at the end: training does not need it

    write_run_report(run)
    return answer


def _tables(result: EvalResults) -> dict[str, Any]:
    found: dict[str, Any] = {name: asdict(figures) for name, figures in result.tasks.items()}
    for name, nats in result.texts.items():
        found[name] = {"metric": "loss", "value": nats}
    return found
