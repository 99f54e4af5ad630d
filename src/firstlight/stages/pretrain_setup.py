"""Build a pre-training run: model, optimizer, batches, evaluation, checkpoints."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from firstlight import optim, parallel, progress
from firstlight.errors import CompatibilityError, UsageError
from firstlight.files.run_names import short_name
from firstlight.lm import LM, GenerateSettings, save_pretrained
from firstlight.model import GPT, ModelConfig, flops_per_token, fused_splits, skip_init
from firstlight.model.factorized_embedding import set_embedding_trainable
from firstlight.parallel import DeviceContext
from firstlight.runs import RunDirectory
from firstlight.stages import sequence_samples
from firstlight.stages.artifacts import PretrainArtifacts, init_config
from firstlight.stages.init_model import load_init_model
from firstlight.stages.model_card import corpus_names, pretrain_card
from firstlight.stages.settings import PretrainSettings
from firstlight.stages.unknown_text import split_text_bytes
from firstlight.store import Batches, Windows
from firstlight.tokenizer import TextBytes, report_unknown
from firstlight.train import (
    Autotuner,
    CheckpointManager,
    Limits,
    LossModule,
    RunLog,
    TrainContext,
    TrainState,
    ValidationResult,
    initial_micro_batch,
    validate,
)


def model_config(settings: PretrainSettings, artifacts: PretrainArtifacts) -> ModelConfig:
    """Complete the model's shape with the vocabulary size of the tokenizer.

    Raises:
        CompatibilityError: the settings specify another vocabulary size, or another shape than the model to start from.
        UsageError: the training text is shorter than one block.
    """
    store, init_lm = artifacts.store, artifacts.init_lm
    if init_lm is None and settings.run.init_from:  # complete, since the run goes on from a checkpoint
        return settings.model.shape()
    config = settings.model.shape() if init_lm is None else init_config(settings, init_lm)
    if init_lm is None:
        if config.vocab_size not in (None, 0, "auto", store.vocab_size):
            raise CompatibilityError(
                "model.vocab_size differs from the tokenizer's",
                found=config.vocab_size,
                expected=store.vocab_size,
                fix="Leave model.vocab_size out.",
            )
        config = config.model_copy(update={"vocab_size": store.vocab_size})
    if store.sequence_length is not None:
        config = sequence_samples.one_document_per_row(settings, config, store.sequence_length - 1)
    if store.train.n_tokens <= config.block_size:
        raise UsageError(
            "the training text is shorter than one block",
            where="model.block_size",
            found=f"{store.train.n_tokens} tokens of text, block size {config.block_size}",
            fix=f"Set model.block_size below {store.train.n_tokens}, or add more text.",
        )
    return config


def rows_per_step(settings: PretrainSettings, block_size: int, device_context: DeviceContext) -> int:
    """Compute the rows of one update: ``batch_tokens`` in blocks, a multiple of the number of processes."""
    exact = settings.train.batch_tokens / block_size
    return max(1, round(exact / device_context.world_size)) * device_context.world_size


def _report_rows(settings: PretrainSettings, block_size: int, rows: int, device_context: DeviceContext) -> None:
    if rows * block_size != settings.train.batch_tokens:
        progress.notice(
            f"train.batch_tokens={settings.train.batch_tokens} is not a multiple of {device_context.world_size} "
            f"processes × block size {block_size}: one update has {rows} rows, {rows * block_size} tokens"
        )


def build_state(
    settings: PretrainSettings, config: ModelConfig, artifacts: PretrainArtifacts, device_context: DeviceContext
) -> TrainState:
    """Build model and optimizer at the start of a run."""
    with skip_init():
        model = GPT(config)
        if artifacts.vectors is not None:
            artifacts.vectors.factorize(model)
    model.activation_checkpointing = settings.train.activation_checkpointing
    state = TrainState(
        model, optim.build_optimizer(model.named_parameters(), settings.optim, fused_splits=fused_splits(model))
    )
    reset_state(state, settings, artifacts, device_context)
    return state


def reset_state(
    state: TrainState, settings: PretrainSettings, artifacts: PretrainArtifacts, device_context: DeviceContext
) -> None:
    """Reset weights, optimizer and random number generators to the start of the run."""
    model = state.model
    if artifacts.init_lm is not None:
        model.load_state_dict(artifacts.init_lm.model.state_dict())
    else:
        model.init_weights(torch.Generator().manual_seed(settings.run.seed))
    if artifacts.vectors is not None:
        artifacts.vectors.initialize(model, settings.model.embeddings_norm, settings.run.seed)
    _freeze_embeddings(model, settings, None)
    model.to(device_context.device)
    state.optimizer = optim.build_optimizer(model.named_parameters(), settings.optim, fused_splits=fused_splits(model))
    if settings.train.ema_decay:
        state.ema = optim.ExponentialMovingAverage(model.named_parameters(), settings.train.ema_decay)
    state.scaler = parallel.grad_scaler(device_context)
    parallel.seed_everything(settings.run.seed + device_context.rank)


def _with_init_lm(run: RunDirectory, settings: PretrainSettings, artifacts: PretrainArtifacts) -> PretrainArtifacts:
    """Return the artifacts with the model to start from, for a run that goes on from a checkpoint."""
    if artifacts.init_lm is not None or not settings.run.init_from:
        return artifacts
    return replace(artifacts, init_lm=load_init_model(run, settings.run.init_from))


def _freeze_embeddings(model: GPT, settings: PretrainSettings, step: int | None) -> None:
    """Freeze or unfreeze the embeddings for the step after ``step``."""
    if settings.model.embeddings_frozen_steps:
        set_embedding_trainable(model, settings.model.embeddings_frozen_steps, step)


@dataclass(frozen=True, slots=True)
class StepSizes:
    """How a run divides its data into updates; known before the model is built.

    Attributes:
        rows: of one update, all processes together.
        micro_batch: rows of one forward pass.
        batches: the training batches.
        limits: of the run.
    """

    rows: int
    micro_batch: int
    batches: Batches
    limits: Limits


def step_sizes(
    settings: PretrainSettings, artifacts: PretrainArtifacts, device_context: DeviceContext, parameters: int
) -> StepSizes:
    """Compute the sizes of the updates of a model with so many parameters."""
    config = settings.model.shape()
    rows = rows_per_step(settings, config.block_size, device_context)
    batches = Batches(
        artifacts.store,
        block_size=config.block_size,
        seed=settings.run.seed,
        weights=settings.data.weights,
        document_masking=settings.data.document_masking,
        class_dropout=artifacts.class_dropout(settings.image.class_dropout),
    )
    limits = Limits.resolve(
        settings.train,
        step_tokens=rows * config.block_size,
        epoch_tokens=batches.windows_per_epoch * config.block_size,
        parameters=parameters,
    )
    micro_batch = _micro_batch(settings, config, rows // device_context.world_size, device_context)
    return StepSizes(rows, micro_batch, batches, limits)


def train_context(
    run: RunDirectory,
    settings: PretrainSettings,
    artifacts: PretrainArtifacts,
    device_context: DeviceContext,
    process_start: float,
) -> TrainContext:
    """Build everything that the training loop needs."""
    config, store = settings.model.shape(), artifacts.store
    state = build_state(settings, config, artifacts, device_context)
    sizes = step_sizes(settings, artifacts, device_context, sum(p.numel() for p in state.model.parameters()))
    _report_rows(settings, config.block_size, sizes.rows, device_context)
    state.counters.micro_batch = sizes.micro_batch
    flops = flops_per_token(config, config.block_size)
    tokens = state.counters.micro_batch * config.block_size
    device_context = parallel.limit_threads(device_context, settings.hardware, flops * tokens / config.n_layer)
    store.train.prefetch()
    windows = Windows(
        store.valid,
        block_size=config.block_size,
        max_windows=None if settings.train.eval_windows == "all" else settings.train.eval_windows,
        document_masking=settings.data.document_masking,
        eot_id=store.eot_id,
        sequence_length=store.sequence_length,
    )
    text_bytes = split_text_bytes(store.valid, artifacts.vocab)
    unit = "token" if artifacts.codec is None else artifacts.codec.UNIT
    unfreezes = settings.model.embeddings_frozen_steps not in (0, "all")
    local_rows, rank = sizes.rows // device_context.world_size, device_context.rank
    module, device_context = Autotuner(
        make_module=lambda: LossModule(state.model),
        state=state,
        load_batch=lambda: sizes.batches.batch(rank * local_rows, local_rows),
        limits=sizes.limits,
        layers=config.n_layer,
        hardware=settings.hardware,
        device_context=device_context,
    ).run()
    return TrainContext(
        run=run.path,
        state=state,
        module=parallel.wrap_ddp(module, device_context, find_unused_parameters=unfreezes),
        batches=sizes.batches,
        rows=sizes.rows,
        optim=settings.optim,
        evaluate=_evaluator(state.model, windows, text_bytes, device_context, unit) if windows.n_windows else None,
        train=settings.train,
        device_context=device_context,
        limits=sizes.limits,
        checkpoints=_checkpoints(run, settings, config, artifacts),
        log=RunLog(run.path, active=parallel.is_main_process(device_context), trackers=settings.train.trackers),
        compatibility={
            "tokenizer": artifacts.vocab.hash,
            "store": store.fingerprint,
            **({} if artifacts.vectors is None else {"embeddings": artifacts.vectors.digest}),
        },
        sample=_sampler(state.model, artifacts, settings),
        restart=lambda: reset_state(state, settings, _with_init_lm(run, settings, artifacts), device_context),
        before_step=(lambda step: _freeze_embeddings(state.model, settings, step)) if unfreezes else None,
        flops_per_token=flops,
        peak_flops=parallel.peak_flops(device_context),
        process_start=process_start,
        starts_from_model=settings.run.init_from is not None,
        shows_samples=artifacts.codec is None,
    )


def _evaluator(
    model: GPT, windows: Windows, text_bytes: TextBytes | None, device_context: DeviceContext, unit: str
) -> Callable[[int], ValidationResult]:
    if text_bytes is None:
        return lambda rows: validate(model, windows, None, device_context, rows, unit)
    tables = {"more_nats": text_bytes.nats, "characters": text_bytes.characters}
    return lambda rows: validate(model, windows, text_bytes.lengths, device_context, rows, unit, **tables)


def _micro_batch(
    settings: PretrainSettings, config: ModelConfig, rows_per_process: int, device_context: DeviceContext
) -> int:
    """Return the rows of one forward pass; ``auto``: as many as are expected to fit into memory."""
    micro_batch = settings.train.micro_batch
    if micro_batch == "auto":
        guess = initial_micro_batch(
            config,
            rows_per_process,
            device_context.device,
            bytes_per_number=4 if device_context.precision == "fp32" else 2,
            checkpointing=settings.train.activation_checkpointing,
            processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
        # Processes that see different free memory must still split a step alike.
        micro_batch = int(min(parallel.all_gather(guess, device_context)))
    return min(micro_batch, rows_per_process)


def _checkpoints(
    run: RunDirectory, settings: PretrainSettings, config: ModelConfig, artifacts: PretrainArtifacts
) -> CheckpointManager:
    tokenizer, codec, vectors = artifacts.tokenizer, artifacts.codec, artifacts.vectors
    facts = {
        "run": run.name,
        "corpus": ", ".join(corpus_names(settings, artifacts)),
        **({"started from": short_name(settings.run.init_from)} if settings.run.init_from else {}),
        **({} if vectors is None else {"embeddings": short_name(vectors.name)}),
    }
    card = pretrain_card(run.name, settings, artifacts)
    return CheckpointManager(
        run.path,
        lambda folder, weights: save_pretrained(
            folder, config, weights, tokenizer, facts, codec=codec, generation=artifacts.generation, card=card
        ),
        settings.train.keep_last,
    )


def _sampler(model: GPT, artifacts: PretrainArtifacts, settings: PretrainSettings) -> Callable[[], str]:
    train, codec = settings.train, artifacts.codec
    generation = GenerateSettings(
        max_new_tokens=train.sample_tokens, temperature=train.sample_temperature, seed=settings.run.seed
    )
    if codec is None:
        assert artifacts.tokenizer is not None, "a run without a codec is of text"
        unknown = artifacts.tokenizer.encode_counted([train.sample_prompt])
        report_unknown(f"train.sample_prompt {train.sample_prompt!r}", unknown.unknown, len(unknown.ids))
        return lambda: LM(model, artifacts.tokenizer).generate(train.sample_prompt, generation)[0].text
    return lambda: sequence_samples.sample(LM(model, None, codec=codec), codec, generation)
