"""``finetune``: fine-tune a pre-trained model on labelled tasks, into a run directory."""

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from firstlight import progress
from firstlight.config import merge, parse_overrides, preset, read_toml, resolve, without_keys
from firstlight.errors import ConfigError, TrainingError, UsageError, nearest
from firstlight.files import write_atomic
from firstlight.files.run_names import parse_run_path
from firstlight.finetuning import DataFiles, EvalResults, TaskSpec, diagnose, tasks_to_json
from firstlight.lm import LM
from firstlight.parallel import DeviceContext, is_main_process, resolve_hardware
from firstlight.runs import (
    Layers,
    Recipe,
    Request,
    RunDirectory,
    RunResult,
    resolve_request,
    run_recipe,
    write_json,
)
from firstlight.shell import command_line
from firstlight.stages import finetune_setup
from firstlight.stages.collapsed_start import CollapsedStart, collapsed_starts, describe_collapsed, is_to_restart
from firstlight.stages.finalize import write_report
from firstlight.stages.finetune_artifacts import FinetuneArtifacts, prepare_artifacts, read_specs, unused_of_tasks
from firstlight.stages.finetune_evaluation import TaskEvaluation, evaluate_tasks, fit_baselines
from firstlight.stages.finetune_settings import FinetuneData, FinetuneSettings
from firstlight.stages.init_model import drop_base
from firstlight.stages.parent_store import measure_forgetting, save_initial_loss
from firstlight.stages.process_clock import process_start
from firstlight.stages.request import resolve_model_name, run_to_resume
from firstlight.train import FitResult, TrainContext, check_installed
from firstlight.types import Paths, as_list

PRESETS = "firstlight.stages.presets.finetune"
_DEFAULT_PRESET = "full"
_BOOTSTRAP = 1000
# Ratio of the fine-tuning to the pre-training learning rate: small steps keep what was learned.
_LR_RATIO = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult(RunResult):
    """The result of a fine-tuning run.

    Attributes:
        valid: metrics of the best checkpoint by task, on the validation split.
        test: the same on the test split.
        unknown: unknown tokens of the texts by task: unk_tokens, unk_bytes, unk_fraction.
        warnings: by task, what should be known about its metrics: where they are no better than something simple.
        forgetting: language-model loss on the pre-training validation split, before and after; None if it is not there.
    """

    valid: dict[str, Any]
    test: dict[str, Any]
    forgetting: dict[str, float] | None
    unknown: dict[str, Any] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)


class FinetuneRecipe(Recipe[FinetuneSettings, FinetuneArtifacts, FinetuneResult]):
    """Fine-tuning: the losses of task heads and, as auxiliary objective, the language-model loss on labelled rows."""

    kind = "finetune"
    settings_class = FinetuneSettings
    result_class = FinetuneResult
    source_keys = ("run.init_from", "run.tasks", "run.data")
    verified_keys = source_keys
    addable_keys = ("run.data",)
    packages = ("finetuning", "stages.finetune_artifacts", "stages.finetune_setup")
    hashed_artifacts = {
        "tokenizer": "another tokenizer",
        "store": "other rows",
        "init_model": "adapters of another model",
        "replay": "another text to replay",
    }

    def of_this_version(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Add that heads read the last token to the settings of a run from before there was ``finetune.pool``."""
        table = settings.get("finetune", {})
        is_older = "batch_size" in table and "max_restarts" not in table
        return merge({"finetune": {"pool": "last"}}, settings) if is_older else settings

    def prepare(
        self, run: RunDirectory, settings: FinetuneSettings, *, prepared: bool, restores: bool
    ) -> FinetuneArtifacts:
        """Read the model to start from, the tasks and their rows."""
        return prepare_artifacts(run, settings, prepared=prepared, restores=restores)

    def resolve(
        self, settings: FinetuneSettings, artifacts: FinetuneArtifacts, device_context: DeviceContext
    ) -> FinetuneSettings:
        """Choose the number of epochs, and evaluate and save once per epoch, unless the settings say otherwise."""
        return finetune_setup.resolve_training(settings, artifacts, device_context)

    def unwritten_settings(self, settings: FinetuneSettings, artifacts: FinetuneArtifacts) -> Collection[str]:
        """Return the settings that have no effect on the tasks."""
        del settings
        return unused_of_tasks(list(artifacts.specs.values()))

    def build(
        self,
        run: RunDirectory,
        settings: FinetuneSettings,
        artifacts: FinetuneArtifacts,
        device_context: DeviceContext,
        process_start: float,
    ) -> TrainContext:
        """Build model, heads, optimizer, batches and evaluation; measure the language-model loss before training."""
        ctx = finetune_setup.train_context(run, settings, artifacts, device_context, process_start)
        source = artifacts.init_model.source
        if is_main_process(device_context) and source is not None and not run.initial_loss_file.is_file():
            # Of the model as it came: special tokens of the tasks, which are new and random, raise the loss. The
            # second copy takes less memory than the optimizer will.
            model = None if artifacts.store is None else LM.load_fp32(source).to(device_context).model
            save_initial_loss(run, model, artifacts.store, device_context, artifacts.new_heads)
            del model
        if is_main_process(device_context):
            write_atomic(run.tasks_file, tasks_to_json(artifacts.specs.values()))
            artifacts.tokenizer.save(run.tokenizer)
        return ctx

    def finish(
        self,
        run: RunDirectory,
        settings: FinetuneSettings,
        ctx: TrainContext,
        artifacts: FinetuneArtifacts,
        fit: FitResult,
    ) -> FinetuneResult:
        """Evaluate the best checkpoint on the validation and test splits, and measure forgetting."""
        main = is_main_process(ctx.device_context)
        # An unfinished run may have to draw its heads again, for the model as it came.
        if main and settings.finetune.adapter.kind == "none" and (fit.finished or not settings.finetune.max_restarts):
            drop_base(run)
        valid, test, forgetting = EvalResults({}, {}), EvalResults({}, {}), None
        if fit.finished and main:
            model = LM.load_fp32(run.path).to(ctx.device_context).model
            evaluation = fit.best if isinstance(fit.best, TaskEvaluation) else None
            if evaluation is None:  # the best checkpoint was evaluated before a resume
                evaluation = evaluate_tasks(model, artifacts, ctx.device_context)
            baselines = fit_baselines(artifacts)
            valid = evaluation.with_intervals(artifacts, "valid", _BOOTSTRAP, baselines)
            test_evaluation = evaluate_tasks(model, artifacts, ctx.device_context, split="test")
            test = test_evaluation.with_intervals(artifacts, "test", _BOOTSTRAP, baselines)
            _check_finite(run, valid=valid, test=test)
            forgetting = measure_forgetting(run, model, artifacts.store, ctx.device_context)
        unknown = {name: task.unknown.to_json(task.n_tokens) for name, task in artifacts.rows.items()}
        result = FinetuneResult(
            run=run.path,
            stopped_by=fit.stopped_by,
            finished=fit.finished,
            step=fit.step,
            seconds=round(fit.seconds, 2),
            valid=_tables(valid),
            test=_tables(test),
            forgetting=forgetting,
            unknown=unknown,
            warnings={
                name: diagnose(metrics, test.tasks.get(name), artifacts.specs[name].labels)
                for name, metrics in valid.tasks.items()
            },
            report=run.report if main else None,
            best=fit.best_evaluation,
            last=fit.last_evaluation,
        )
        if main:
            notes = {name: [*task.notes, *task.rows.notes] for name, task in artifacts.tasks.items()}
            for name, texts in describe_collapsed(collapsed_starts(run)).items():
                notes[name] += texts
            rows = {
                name: {split: len(task.split(split)) for split in ("train", "valid", "test")}
                for name, task in artifacts.rows.items()
            }
            tables = {"tasks": result.valid, "test": result.test, "forgetting": forgetting, "notes": notes}
            tables |= {"rows": rows, "warnings": result.warnings}
            write_json(run.evaluation_file, tables | {"unknown": unknown})
        return result


def _check_finite(run: RunDirectory, **splits: EvalResults) -> None:
    """Refuse to call a run finished whose last evaluation is not finite."""
    for split, result in splits.items():
        losses = {**{name: metrics.loss for name, metrics in result.tasks.items()}, **result.texts}
        bad = next((name for name, loss in losses.items() if not math.isfinite(loss)), None)
        if bad is not None:
            raise TrainingError(
                f"the loss on the {split} rows is not finite, so the run counts as failed",
                where=f"{run.path}: {bad}",
                found=losses[bad],
                fix="Lower optim.lr, and look at the rows. Earlier checkpoints are intact.",
            )


def _tables(result: EvalResults) -> dict[str, Any]:
    tables: dict[str, Any] = {name: asdict(metrics) for name, metrics in result.tasks.items()}
    return tables | {name: {"metric": "loss", "value": nats} for name, nats in result.texts.items()}


def finetune(
    init_from: str | Path | None = None,
    tasks: Paths = (),
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    preset: str | None = None,
    resume: bool = False,
    restart: bool = False,
    overrides: str | Sequence[str] = (),
) -> FinetuneResult:
    """Fine-tune a model on tasks, into a run directory.

    Args:
        init_from: a run, checkpoint or Hugging Face directory; or a fine-tuning run to resume; or its run.toml, which
            starts the same run again.
        tasks: TASK.toml files, or names of packaged tasks such as ``scenes``.
        out: the run directory; by default ``runs/`` and the names of model and tasks.
        data: folder that holds the tasks' data folders.
        preset: full, gpt1, lora, qlora or probe.
        resume: continue the run in ``out``; start it if there is none; do nothing if it has finished.
        restart: train the run in ``out`` again from step 0; its checkpoints and logs are moved aside.
        overrides: settings as ``key=value``.

    Raises:
        FirstlightError: bad input, or a run that cannot continue.
    """
    started, recipe = process_start(), FinetuneRecipe()
    request = _finetune_request(
        recipe, init_from, as_list(tasks), out, data, preset, resume, restart, as_list(overrides)
    )
    while True:
        try:
            return run_recipe(recipe, request, process_start=started, write_report=write_report)
        except CollapsedStart as error:
            if resolve_hardware(request.settings.hardware).world_size > 1:
                raise
            progress.warn(error.problem)
            started = time.perf_counter()
        request = _finetune_request(recipe, None, (), request.run.path, None, None, False, True, ())


def _finetune_request(
    recipe: FinetuneRecipe,
    init_from: str | Path | None,
    tasks: Sequence[str],
    out: str | Path | None,
    data: str | Path | None,
    preset_name: str | None,
    resume: bool,
    restart: bool,
    overrides: Sequence[str],
) -> Request[FinetuneSettings]:
    """Merge preset, arguments and ``key=value`` into a request for a run."""
    model = None if init_from is None else Path(init_from)
    if model is not None and not tasks and (named := _run_itself(model, out, resume=resume or restart)) is not None:
        out, model = named, None
    settings_file = model if model is not None and model.suffix == ".toml" and not tasks else None
    if settings_file is not None:
        model = None
    arguments = {
        "init_from": None if model is None else resolve_model_name(model),
        "tasks": tasks,
        "data": None if data is None else str(data),
    }
    specified = merge({"run": {k: v for k, v in arguments.items() if v}}, _of_tasks(parse_overrides(overrides)))
    run = RunDirectory(Path(out) if out is not None else Path("runs") / _run_name(settings_file or model, tasks))
    rate_note, below = "", preset(PRESETS, preset_name) if preset_name else {}
    if settings_file is None and preset_name in (None, _DEFAULT_PRESET) and not run.exists:
        table, rate_note = _learning_rate(specified)
        below = merge(preset(PRESETS, _DEFAULT_PRESET), table)
    elif settings_file is None and not run.exists and not {"lr", "name"} & specified.get("optim", {}).keys():
        rate_note = f"learning rate {below['optim']['lr']:.3g}: that of the preset (set optim.lr to change it)"
    if run.exists:  # an interval of 0, which was resolved to an epoch, is not changed
        below = without_keys(below, {f"train.{name}" for name, value in below.get("train", {}).items() if not value})
    layers = Layers(
        preset=below,
        file=_read_settings(recipe, settings_file) if settings_file is not None else {},
        path=settings_file,
        arguments=specified,
    )
    restart = restart or (resume and is_to_restart(run))
    request = resolve_request(
        recipe, run, layers, resume=resume, restart=restart, check=_check_settings, unused=_unused_for_tasks
    )
    if rate_note:  # after what is refused, such as an unknown task
        progress.notice(rate_note)
    return request


def _read_settings(recipe: FinetuneRecipe, file: Path) -> dict[str, Any]:
    """Read a file of settings; that of a run of an earlier version is completed."""
    table = read_toml(file)
    return recipe.of_this_version(table) if parse_run_path(file).run is not None else table


def _of_tasks(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a command with those of the tasks, such as ``columns.text``, in the table ``task``."""
    own: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    of_tasks = TaskSpec.model_fields.keys() - FinetuneSettings.model_fields.keys()
    for key, value in table.items():
        if key == "data" and isinstance(value, dict):
            of_files = {k: v for k, v in value.items() if k in DataFiles.model_fields}
            _check_data(value)
            tasks |= {"data": of_files} if of_files else {}
            own |= {"data": rest} if (rest := {k: v for k, v in value.items() if k not in of_files}) else {}
        elif key in of_tasks:
            tasks[key] = value
        elif nearest(key, [*FinetuneSettings.model_fields, *of_tasks]) in of_tasks:
            near = nearest(key, of_tasks)
            raise ConfigError("unknown setting", where=key, fix=f"Did you mean {near}?")
        else:
            own[key] = value
    return merge({"task": tasks}, own) if tasks else own


def _check_data(given: Iterable[str]) -> None:
    """Raise ConfigError for a setting of the table ``data`` that neither the command nor its tasks have."""
    known = {*DataFiles.model_fields, *FinetuneData.model_fields}
    for name in given:
        if name not in known:
            near = DataFiles.former_names.get(name) or nearest(name, known)
            fix = (
                f"Did you mean data.{near}?"
                if near
                else f"Did you mean {name}?"
                if name in TaskSpec.model_fields
                else None
            )
            raise ConfigError(
                "unknown setting", where=f"data.{name}", expected=f"one of {', '.join(sorted(known))}", fix=fix
            )


def _unused_for_tasks(settings: FinetuneSettings) -> dict[str, str]:
    """Return the settings that have no effect on the tasks of a new run."""
    return unused_of_tasks(read_specs(settings.run.tasks, settings.run.data, settings.task))


def _run_itself(model: Path, out: str | Path | None, *, resume: bool) -> Path | None:
    """Return the fine-tuning run that is named without a task, to be resumed; None for a file of settings.

    Raises:
        UsageError: it is not to be resumed, it is no fine-tuning run, or there is none.
    """
    named = parse_run_path(model).run
    if model.suffix == ".toml" and not (named is not None and resume and out is None):
        return None
    if named is not None and (kind := RunDirectory(named).kind) == FinetuneRecipe.kind:
        return run_to_resume(str(model), None if out is None else Path(out), resume=resume, command=kind)
    if not resume:
        return None
    if named is not None:
        fix = f"Resume it with: {command_line(kind, named, '--resume')}"
        raise UsageError(f"is a {kind} run", where=model, expected="a fine-tuning run", fix=fix)
    if out is None and not model.exists():
        raise UsageError("no such run", where=model, fix=f"List the runs: {command_line('runs')}")
    return None


def _check_settings(settings: FinetuneSettings) -> None:
    check_installed(settings.train.trackers)
    if settings.run.init_from is None or not settings.run.tasks:
        raise UsageError(
            "nothing to fine-tune",
            expected="a RUN and one or more TASK.toml files, or names of packaged tasks",
            fix=f"An example: {command_line('finetune', '--help')}",
        )


def _learning_rate(specified: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return 0.3 of the learning rate that the model was pre-trained with, if its run says that, and a remark.

    A run that goes on from a fine-tuned one keeps its rate, unless that was the rate of adapters.
    """
    model = Path(str(specified.get("run", {}).get("init_from") or ""))
    runs = [run for run in (RunDirectory(model), RunDirectory(model.parent.parent)) if run.exists]
    if not runs or "lr" in specified.get("optim", {}):
        return {}, ""
    settings = read_toml(runs[0].settings_file)
    table, is_tuned = settings.get("optim"), runs[0].kind == FinetuneRecipe.kind
    if not table or (is_tuned and settings.get("finetune", {}).get("adapter", {}).get("kind", "none") != "none"):
        return {}, ""
    try:
        rate = resolve(FinetuneSettings, base={"optim": table}).optim.equivalent_adamw_lr
    except UsageError as error:
        return {}, f"the learning rate of the starting run is unknown, so the preset's is used: {error}"
    if rate is None:
        return {}, ""
    lr, what = (rate, "that") if is_tuned else (rate * _LR_RATIO, f"{_LR_RATIO:g} of that")
    return {"optim": {"lr": lr}}, f"learning rate {lr:.3g}: {what} of {runs[0].path} (set optim.lr to change it)"


def _run_name(model: Path | None, tasks: Sequence[str]) -> str:
    if model is not None and model.suffix == ".toml":
        return f"{model.absolute().parent.name}-again" if model.name == "run.toml" else model.stem
    return "-".join([*([model.name] if model is not None else []), *(Path(t).stem for t in tasks)]) or "finetune"
