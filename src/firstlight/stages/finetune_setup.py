"""Build a fine-tuning run: tasks and rows, model with heads, optimizer, mixture of tasks, evaluation, checkpoints."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from firstlight import optim, parallel, progress
from firstlight.errors import ConfigError, UsageError
from firstlight.files import run_layout, write_atomic
from firstlight.finetuning import (
    DELIMITER,
    EXTRACT,
    PAD,
    START,
    EncodedExample,
    EvalResults,
    Mixture,
    Prediction,
    Preprocessor,
    ReplaySource,
    RowSource,
    TaskData,
    TaskLoss,
    TaskRows,
    TaskSpec,
    balanced_class_weights,
    build_task_model,
    chat_template,
    compute_metrics,
    evaluate_lm_loss,
    head_of,
    kind_of,
    layer_lr_scales,
    load_task,
    predict,
    read_spec,
    read_tasks,
    special_tokens,
    tasks_to_json,
    unfreeze_layers,
)
from firstlight.finetuning import adapters as adapter_files
from firstlight.lm import LM, Classifier, save_pretrained
from firstlight.model import GPT, ModelConfig, flops_per_token, fused_splits
from firstlight.parallel import DeviceContext
from firstlight.runs import RunDirectory
from firstlight.stages.evaluate import find_token_store
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.store import TokenStore, Windows
from firstlight.tokenizer import Tokenizer
from firstlight.train import CheckpointManager, Limits, RunLog, TrainContext, TrainState, validate

_FORGETTING_WINDOWS = 200
_SPLITS = ("train", "valid", "test")

Splits = tuple[list[EncodedExample], list[EncodedExample], list[EncodedExample]]


@dataclass(frozen=True, slots=True)
class InitModel:
    """The model to start from; its weights are read when a run starts, and not kept in memory."""

    config: ModelConfig
    source: Path


@dataclass(frozen=True, slots=True)
class FinetuneArtifacts:
    """What a fine-tuning run is built from.

    Attributes:
        init_model: the pre-trained model.
        tokenizer: with the tokens that the tasks add.
        tasks: the examples of each task, by name.
        rows: the tokenized rows of each task: (train, valid, test), by name.
        store: the token store that the model was pre-trained on, if it is there.
    """

    init_model: InitModel
    tokenizer: Tokenizer
    tasks: dict[str, TaskData]
    rows: dict[str, Splits]
    store: TokenStore | None

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The tasks by name."""
        return {name: data.spec for name, data in self.tasks.items()}

    @property
    def classifier(self) -> Classifier | None:
        """The head for which transformers has a class, if there is exactly one task and its kind has one."""
        if len(self.tasks) != 1:
            return None
        spec = next(iter(self.specs.values()))
        head = head_of(spec)
        if not kind_of(spec).sequence_classification or spec.pool != "last" or head is None:
            return None
        return Classifier(spec.name, spec.labels if head.has_classes else ())


def prepare_artifacts(run: RunDirectory, settings: FinetuneSettings) -> FinetuneArtifacts:
    """Read the model to start from, the tasks and their rows.

    The tasks of a run that is resumed are those of its ``tasks.json``, not of the original files.

    Raises:
        UsageError: two tasks of the same name, or a model without a tokenizer.
    """
    assert settings.run.init_from is not None
    specs = _read_specs(run, settings)
    init_lm = LM.load_fp32(settings.run.init_from)
    if init_lm.tokenizer is None:
        raise UsageError("has no tokenizer, so it cannot read text", where=settings.run.init_from)
    assert init_lm.source is not None, "it was read from there"
    tokenizer = _extend_tokenizer(init_lm.tokenizer, specs, settings)
    tasks = {spec.name: load_task(spec, seed=settings.run.seed) for spec in specs}
    rows = {name: _tokenize(data, tokenizer, init_lm.config.block_size) for name, data in tasks.items()}
    init_model = InitModel(init_lm.config, init_lm.source)
    return FinetuneArtifacts(init_model, tokenizer, tasks, rows, find_token_store(init_lm, needed=False))


def _read_specs(run: RunDirectory, settings: FinetuneSettings) -> list[TaskSpec]:
    if run.exists and run.tasks_file.is_file():
        return list(read_tasks(run.path).values())
    data = None if settings.run.data is None else Path(settings.run.data)
    specs = [read_spec(Path(t), data=data) for t in settings.run.tasks]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError("two tasks have this name", where=name, fix="Rename one of them in its TOML file.")
        if not re.fullmatch(r"\w[\w-]*", name):
            raise UsageError("is not a valid name of a task", where=name, expected="letters, digits, - and _")
    return specs


def _extend_tokenizer(tokenizer: Tokenizer, specs: Sequence[TaskSpec], settings: FinetuneSettings) -> Tokenizer:
    """Add the special tokens of the tasks, and a chat template if one of them is a chat."""
    table, kinds = settings.finetune, [kind_of(spec) for spec in specs]
    uses_adapter = table.adapter.kind != "none"
    is_new = table.special_tokens == "new" or (table.special_tokens == "auto" and not uses_adapter)
    added = special_tokens(specs) if is_new else []
    around = (START, DELIMITER, EXTRACT) if is_new else (tokenizer.eot,) * 3
    kept: dict[str, Any] = {"pad_token": PAD} if PAD in added else {}
    single = len(specs) == 1 and kinds[0].sequence_classification
    extended = tokenizer.with_special_tokens(added, template=around if single else None, extra_config=kept)
    is_chat = any(kind.inputs.is_chat for kind in kinds)
    return (
        extended.with_special_tokens([], extra_config={"chat_template": chat_template(extended)})
        if is_chat
        else extended
    )


def _tokenize(data: TaskData, tokenizer: Tokenizer, block_size: int) -> Splits:
    preprocess = Preprocessor(data.spec, tokenizer, block_size)
    splits = preprocess(data.train), preprocess(data.valid), preprocess(data.test)
    for note in data.notes:
        progress.notice(f"{data.spec.name}: {note}")
    if preprocess.n_truncated:
        progress.notice(
            f"{data.spec.name}: {preprocess.n_truncated:,} inputs longer than {block_size} tokens were truncated "
            f"(truncation = {data.spec.truncation})"
        )
    return splits


def rows_per_step(settings: FinetuneSettings, device_context: DeviceContext) -> int:
    """Compute the rows of one update, a multiple of the number of processes."""
    world_size = device_context.world_size
    return max(1, round(settings.finetune.batch_size / world_size)) * world_size


def resolve_intervals(
    settings: FinetuneSettings, artifacts: FinetuneArtifacts, device_context: DeviceContext
) -> FinetuneSettings:
    """Set the intervals of evaluations and checkpoints to one epoch where they are not specified."""
    epoch = _mixture(settings, artifacts, rows_per_step(settings, device_context)).updates_per_epoch
    intervals = {name: getattr(settings.train, name) or epoch for name in ("eval_every", "checkpoint_every")}
    return settings.model_copy(update={"train": settings.train.model_copy(update=intervals)})


def _build_model(settings: FinetuneSettings, artifacts: FinetuneArtifacts) -> GPT:
    pretrained = LM.load_fp32(artifacts.init_model.source).model
    return build_task_model(
        pretrained, artifacts.specs, artifacts.tokenizer.vocab_size, settings.finetune, settings.run.seed
    )


def _build_optimizer(model: GPT, settings: FinetuneSettings) -> optim.Optimizer:
    decay = settings.finetune.layer_decay
    if decay < 1 and not settings.optim.supports_lr_scales:
        raise ConfigError(
            f"is not supported by optim.name={settings.optim.name}",
            where="finetune.layer_decay",
            fix="Set optim.name=adamw.",
        )
    scales = layer_lr_scales(model, decay) if decay < 1 else None
    return optim.build_optimizer(
        model.named_parameters(), settings.optim, fused_splits=fused_splits(model), lr_scales=scales
    )


def _reset_state(
    state: TrainState, settings: FinetuneSettings, artifacts: FinetuneArtifacts, device_context: DeviceContext
) -> None:
    """Reset weights, optimizer and random number generators to the start of the run."""
    fresh = _build_model(settings, artifacts)
    state.model.load_state_dict(fresh.state_dict())
    for name, parameter in fresh.named_parameters():
        state.model.get_parameter(name).requires_grad_(parameter.requires_grad)
    _start_state(state, settings, device_context)


def _start_state(state: TrainState, settings: FinetuneSettings, device_context: DeviceContext) -> None:
    state.model.to(device_context.device)
    state.optimizer = _build_optimizer(state.model, settings)
    if settings.train.ema_decay:
        state.ema = optim.ExponentialMovingAverage(state.model.named_parameters(), settings.train.ema_decay)
    state.scaler = parallel.grad_scaler(device_context)
    parallel.seed_everything(settings.run.seed + device_context.rank)


def train_context(
    run: RunDirectory,
    settings: FinetuneSettings,
    artifacts: FinetuneArtifacts,
    device_context: DeviceContext,
    process_start: float,
) -> TrainContext:
    """Build everything that the training loop needs."""
    table, model = settings.finetune, _build_model(settings, artifacts)
    state = TrainState(model, _build_optimizer(model, settings))
    if table.adapter.kind != "none":
        state.weight_format = adapter_files.AdapterCheckpoint()
    _start_state(state, settings, device_context)
    rows = rows_per_step(settings, device_context)
    mixture = _mixture(settings, artifacts, rows)
    state.counters.micro_batch = _micro_batch(settings, rows // device_context.world_size, device_context)
    limits = Limits.resolve(
        settings.train,
        step_tokens=rows,
        epoch_tokens=mixture.updates_per_epoch * rows,
        parameters=sum(p.numel() for p in model.parameters()),
    )
    weights = _class_weights(artifacts)
    module = TaskLoss(
        model, artifacts.specs, lm_weight=table.lm_weight, dropout=table.head_dropout, class_weights=weights
    )
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    unfreeze_every = table.unfreeze_every_epochs * mixture.updates_per_epoch
    return TrainContext(
        run=run.path,
        state=state,
        module=parallel.wrap_ddp(parallel.compile_module(module, device_context), device_context),
        batches=mixture,
        rows=rows,
        evaluate=lambda n: evaluate_tasks(model, artifacts, device_context, limit=n),
        optim=settings.optim,
        train=settings.train,
        device_context=device_context,
        limits=limits,
        checkpoints=CheckpointManager(
            run.path, _model_writer(run, settings, artifacts, model), settings.train.keep_last
        ),
        log=RunLog(run.path, active=parallel.is_main_process(device_context), trackers=settings.train.trackers),
        compatibility={
            "tokenizer": artifacts.tokenizer.hash,
            "store": ",".join(data.fingerprint for data in artifacts.tasks.values()),
        },
        target_unit="rows",
        sample=None,
        restart=lambda: _reset_state(state, settings, artifacts, device_context),
        flops_per_token=flops_per_token(model.config, model.config.block_size),
        peak_flops=None,
        process_start=process_start,
        before_step=(lambda step: unfreeze_layers(model, trainable, step, unfreeze_every)) if unfreeze_every else None,
    )


def _micro_batch(settings: FinetuneSettings, rows: int, device_context: DeviceContext) -> int:
    """Return the rows of one forward pass; ``auto`` on a CPU: a quarter of a batch, whose rows are sorted.

    Rows of similar length need little padding, and a CPU gains nothing from many rows at once.
    """
    micro_batch = settings.train.micro_batch
    if micro_batch != "auto":
        return min(micro_batch, rows)
    limit = max(4, rows // 4) if device_context.device.type == "cpu" else rows
    return max(n for n in range(1, rows + 1) if rows % n == 0 and n <= limit)


def _mixture(settings: FinetuneSettings, artifacts: FinetuneArtifacts, rows: int) -> Mixture:
    table = settings.finetune
    sources: list[RowSource] = [TaskRows(spec, artifacts.rows[name][0]) for name, spec in artifacts.specs.items()]
    fixed = {}
    if table.replay_fraction:
        if artifacts.store is None:
            raise UsageError(
                "there is no pre-training text to replay",
                where="finetune.replay_fraction",
                fix="Start from a run that has its data/, or leave it out.",
            )
        sources.append(ReplaySource(artifacts.store.train, artifacts.init_model.config.block_size))
        fixed[ReplaySource.name] = table.replay_fraction
    return Mixture.plan(sources, rows=rows, mixing=table.mixing, fixed=fixed, seed=settings.run.seed)


def _class_weights(artifacts: FinetuneArtifacts) -> dict[str, torch.Tensor]:
    """Compute the class weights of the tasks that balance their classes."""
    return {
        name: balanced_class_weights(spec, artifacts.rows[name][0])
        for name, spec in artifacts.specs.items()
        if spec.class_weights == "balanced"
    }


@dataclass(frozen=True, slots=True)
class TaskEvaluation:
    """An evaluation of all tasks on one split, with the predictions that it was computed from.

    Attributes:
        result: metrics by task, and losses of tasks of text.
        predictions: by task; from them the end of a run computes confidence intervals without another pass.
    """

    result: EvalResults
    predictions: dict[str, list[Prediction]]

    @property
    def loss(self) -> float:
        """Mean validation loss."""
        return self.result.loss

    @property
    def criterion(self) -> float:
        """The value that the best checkpoint minimises."""
        return self.result.criterion

    def metrics(self) -> Mapping[str, float]:
        """Return the metrics to log, by name."""
        return self.result.metrics()

    def with_intervals(self, artifacts: FinetuneArtifacts, split: str, n_bootstrap: int) -> EvalResults:
        """Compute the same metrics with bootstrap confidence intervals."""
        side = _SPLITS.index(split)
        metrics = {
            name: compute_metrics(
                artifacts.specs[name], artifacts.rows[name][side], predictions, n_bootstrap=n_bootstrap
            )
            for name, predictions in self.predictions.items()
        }
        return EvalResults(metrics, self.result.texts)


def evaluate_tasks(
    model: GPT,
    artifacts: FinetuneArtifacts,
    device_context: DeviceContext,
    *,
    split: str = "valid",
    limit: int | None = None,
) -> TaskEvaluation:
    """Evaluate a model on one split of every task.

    Args:
        model: with the tasks' heads.
        artifacts: of the run.
        device_context: of the run.
        split: valid or test.
        limit: rows of one forward pass.
    """
    metrics, texts, predictions = {}, {}, {}
    for name, spec in artifacts.specs.items():
        rows = artifacts.rows[name][_SPLITS.index(split)]
        if not rows:
            continue
        if head_of(spec) is None:
            texts[name] = evaluate_lm_loss(model, spec, rows, device_context)
        else:
            predictions[name] = predict(model, spec, rows, device_context, max_rows=limit)
            metrics[name] = compute_metrics(spec, rows, predictions[name])
    return TaskEvaluation(EvalResults(metrics, texts), predictions)


def pretraining_loss(model: GPT, artifacts: FinetuneArtifacts, device_context: DeviceContext) -> float | None:
    """Compute the loss on the validation split of the pre-training text; None if that is not there."""
    if artifacts.store is None:
        return None
    windows = Windows(artifacts.store.valid, block_size=model.config.block_size, max_windows=_FORGETTING_WINDOWS)
    return validate(model, windows, None, device_context, 8).loss if windows.n_windows else None


def _model_writer(run: RunDirectory, settings: FinetuneSettings, artifacts: FinetuneArtifacts, model: GPT) -> Any:
    classifier, adapter = artifacts.classifier, settings.finetune.adapter
    facts = {"run": run.name, "tasks": ", ".join(artifacts.specs), "started from": settings.run.init_from}

    def write(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        if adapter.kind != "none":
            weights = adapter_files.write(
                folder,
                model,
                weights,
                adapter,
                base=str(artifacts.init_model.source),
                head=None if classifier is None else classifier.head,
            )
        save_pretrained(folder, model.config, weights, artifacts.tokenizer, facts, classifier)
        write_atomic(folder / run_layout.TASKS, tasks_to_json(artifacts.specs.values()))

    return write
