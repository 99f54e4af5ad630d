"""Build a fine-tuning run: model with heads, optimizer, mixture of tasks, checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from firstlight import optim, parallel, progress
from firstlight.errors import ConfigError
from firstlight.files import run_layout, write_atomic
from firstlight.files.run_names import short_name
from firstlight.finetuning import (
    Mixture,
    ReplaySource,
    RowSource,
    TaskLoss,
    TaskRows,
    balanced_class_weights,
    build_task_model,
    criterion_name,
    layer_lr_scales,
    tasks_to_json,
    unfreeze_layers,
)
from firstlight.finetuning import adapters as adapter_files
from firstlight.lm import LM, save_pretrained
from firstlight.model import GPT, flops_per_token, fused_splits, skip_init
from firstlight.parallel import DeviceContext, is_main_process
from firstlight.runs import RunDirectory, read_json_object
from firstlight.stages.collapsed_start import N_COLLAPSED, StartCheck, collapsed_starts, head_seed
from firstlight.stages.finetune_artifacts import FinetuneArtifacts, read_init_model
from firstlight.stages.finetune_evaluation import TaskEvaluation, evaluate_tasks
from firstlight.stages.finetune_settings import FinetuneSettings
from firstlight.stages.init_model import hash_weights
from firstlight.stages.model_card import finetune_card, hub_model
from firstlight.train import Autotuner, CheckpointManager, Limits, RunLog, TrainContext, TrainState

# The default number of epochs; docs/finetune.md says how it was chosen.
_MIN_EPOCHS, _MAX_EPOCHS, _MIN_UPDATES = 3, 15, 250


def rows_per_step(settings: FinetuneSettings, device_context: DeviceContext) -> int:
    """Compute the rows of one update, a multiple of the number of processes."""
    world_size = device_context.world_size
    return max(1, round(settings.finetune.batch_size / world_size)) * world_size


def resolve_training(
    settings: FinetuneSettings, artifacts: FinetuneArtifacts, device_context: DeviceContext
) -> FinetuneSettings:
    """Set the number of epochs where nothing limits the run, and unspecified intervals to one epoch."""
    train = settings.train
    epoch = _mixture(settings, artifacts, rows_per_step(settings, device_context)).updates_per_epoch
    values: dict[str, Any] = {name: getattr(train, name) or epoch for name in ("eval_every", "checkpoint_every")}
    is_limited = (train.epochs, train.tokens, train.minutes) != (None, None, None) or train.convergence.evaluations
    if train.steps == "auto" and not is_limited:
        values["epochs"] = float(default_epochs(epoch))
    if (epochs := values.get("epochs", train.epochs)) is not None and is_main_process(device_context):
        progress.notice(f"{epochs:g} epochs of {epoch} updates (set train.epochs to change it)", level="info")
    return settings.model_copy(update={"train": train.model_copy(update=values)})


def default_epochs(updates: int) -> int:
    """Return the default number of epochs: small data sets get more of them, for enough updates.

    Args:
        updates: per epoch.
    """
    return min(_MAX_EPOCHS, max(_MIN_EPOCHS, -(-_MIN_UPDATES // updates)))


def _build_model(settings: FinetuneSettings, artifacts: FinetuneArtifacts, seed: int) -> GPT:
    source = artifacts.init_model.source
    if source is None:  # the weights are those of the checkpoint that is restored
        with skip_init():
            pretrained = GPT(artifacts.init_model.config)
    else:
        pretrained = LM.load_fp32(source).model
    model = build_task_model(
        pretrained,
        artifacts.specs,
        artifacts.tokenizer.vocab_size,
        settings.finetune,
        seed,
        # With an adapter, peft takes the base's own row of a padded vocabulary.
        n_known=artifacts.init_model.n_known if settings.finetune.adapter.kind == "none" else None,
    )
    model.activation_checkpointing = settings.train.activation_checkpointing
    return model


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
    state: TrainState,
    settings: FinetuneSettings,
    artifacts: FinetuneArtifacts,
    device_context: DeviceContext,
    seed: int,
) -> None:
    """Reset weights, optimizer and random number generators to the start of the run."""
    fresh = _build_model(settings, artifacts, seed)
    state.model.load_state_dict(fresh.state_dict())
    for name, parameter in fresh.named_parameters():
        state.model.get_parameter(name).requires_grad_(parameter.requires_grad)
    _start_state(state, settings, device_context)


def _with_init_model(run: RunDirectory, settings: FinetuneSettings, artifacts: FinetuneArtifacts) -> FinetuneArtifacts:
    """Return the artifacts with the model to start from, for a run that goes on from a checkpoint."""
    if artifacts.init_model.source is not None:
        return artifacts
    init_model, _ = read_init_model(run, settings, prepared=True)
    return replace(artifacts, init_model=init_model)


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
    seed = head_seed(run, settings)
    table, model = settings.finetune, _build_model(settings, artifacts, seed)
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
    weights, criterion = _class_weights(artifacts), criterion_name(artifacts.specs.values())
    local_rows, rank = rows // device_context.world_size, device_context.rank
    module, device_context = Autotuner(
        make_module=lambda: TaskLoss(
            model, artifacts.specs, lm_weight=table.lm_weight, dropout=table.head_dropout, class_weights=weights
        ),
        state=state,
        load_batch=lambda: mixture.batch(rank * local_rows, local_rows),
        limits=limits,
        layers=model.config.n_layer,
        hardware=settings.hardware,
        device_context=device_context,
        may_compile=False,  # the rows of each batch have a length of their own
    ).run()
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    unfreeze_every = table.unfreeze_every_epochs * mixture.updates_per_epoch
    log = RunLog(run.path, active=parallel.is_main_process(device_context), trackers=settings.train.trackers)
    new_heads = list(read_json_object(run.initial_loss_file).get("new_heads", artifacts.new_heads))
    check = StartCheck(run, settings, artifacts, state, limits, log, device_context, new_heads)

    def evaluate(rows: int) -> TaskEvaluation:
        found = evaluate_tasks(model, artifacts, device_context, limit=rows)
        check(found)
        return found

    return TrainContext(
        run=run.path,
        state=state,
        module=parallel.wrap_ddp(module, device_context),
        batches=mixture,
        rows=rows,
        evaluate=evaluate,
        optim=settings.optim,
        train=settings.train,
        device_context=device_context,
        limits=limits,
        checkpoints=CheckpointManager(
            run.path, _model_writer(run, settings, artifacts, model), settings.train.keep_last
        ),
        log=log,
        compatibility={
            "tokenizer": artifacts.tokenizer.hash,
            "store": ",".join(data.fingerprint for data in artifacts.tasks.values()),
            N_COLLAPSED: len(collapsed_starts(run)),
            # Of adapters, whose checkpoints lack the weights that they were trained on.
            **({"init_model": hash_weights(_source(artifacts))} if table.adapter.kind != "none" else {}),
            **({"replay": artifacts.store.fingerprint} if table.replay_fraction and artifacts.store else {}),
        },
        target_unit="tokens" if criterion == "loss" else "rows",
        criterion=criterion,
        sample=None,
        restart=lambda: _reset_state(state, settings, _with_init_model(run, settings, artifacts), device_context, seed),
        flops_per_token=flops_per_token(model.config, model.config.block_size),
        peak_flops=None,
        process_start=process_start,
        starts_from_model=True,
        has_new_heads=bool(new_heads),
        before_step=(lambda step: unfreeze_layers(model, trainable, step, unfreeze_every)) if unfreeze_every else None,
    )


def _source(artifacts: FinetuneArtifacts) -> Path:
    """Return the directory of the model that adapters are trained on."""
    assert artifacts.init_model.source is not None, "checkpoints of adapters lack the weights of their base"
    return artifacts.init_model.source


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
    sources: list[RowSource] = [TaskRows(spec, artifacts.rows[name].train) for name, spec in artifacts.specs.items()]
    fixed = {}
    if table.replay_fraction:
        assert artifacts.store is not None, "check_replay"
        sources.append(ReplaySource(artifacts.store.train, artifacts.init_model.config.block_size))
        fixed[ReplaySource.name] = table.replay_fraction
    return Mixture.plan(sources, rows=rows, mixing=table.mixing, fixed=fixed, seed=settings.run.seed)


def _class_weights(artifacts: FinetuneArtifacts) -> dict[str, torch.Tensor]:
    """Compute the class weights of the tasks that balance their classes."""
    return {
        name: balanced_class_weights(spec, artifacts.rows[name].train)
        for name, spec in artifacts.specs.items()
        if spec.class_weights == "balanced"
    }


def _model_writer(run: RunDirectory, settings: FinetuneSettings, artifacts: FinetuneArtifacts, model: GPT) -> Any:
    classifier, adapter = artifacts.classifier, settings.finetune.adapter
    n_base = artifacts.init_model.config.vocab_size
    started_from = short_name(settings.run.init_from or "")
    card = finetune_card(run.name, settings.run.init_from or "", artifacts)
    hub_base = hub_model(settings.run.init_from)
    facts = {"run": run.name, "tasks": ", ".join(artifacts.specs), "started from": started_from}

    def write(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        if adapter.kind != "none":
            weights = adapter_files.write(
                folder,
                model,
                weights,
                adapter,
                # The name of a folder on this machine would be of no use on another.
                base=hub_base or (run_layout.BASE if settings.finetune.keep_base else started_from),
                card=replace(card, base_model=hub_base),
                head=None if classifier is None or classifier.reads_mean else classifier.head,
                # Of the padding alone nothing is read.
                embeddings=settings.finetune.special_tokens == "new" and model.config.vocab_size != n_base,
            )
            # With it peft gives the base the embeddings of added tokens.
            size = model.config.block_size
            artifacts.tokenizer.save(folder / adapter_files.FOLDER, model_max_length=size, pads=True)
        save_pretrained(
            folder,
            model.config,
            weights,
            artifacts.tokenizer,
            facts,
            classifier,
            generation=artifacts.init_model.generation,
            card=card,
        )
        write_atomic(folder / run_layout.TASKS, tasks_to_json(artifacts.specs.values(), portable=True))

    return write
