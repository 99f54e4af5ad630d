"""Put a run together: tokenizer, token store, model, optimiser, loop. Wiring only; each part lives in its room."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from firstlight import optim, parallel, progress
from firstlight.errors import ContractError, UsageError
from firstlight.files import code_hash, storage_errors
from firstlight.lm import LM, GenerateSettings, save_pretrained
from firstlight.model import GPT, ModelConfig, flops_per_token, fused_splits, skip_init
from firstlight.stages.artifacts import Materials
from firstlight.stages.settings import PretrainSettings
from firstlight.store import Batches, Windows
from firstlight.train import Checkpoints, Limits, LossModule, RunLog, TrainContext, TrainState, first_guess, validate

# Holds one entry once a run of this process has counted from the process's beginning.
_begun: list[float] = []


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run directory, so that two processes never write into it at once."""
    is_new = not run.exists()
    with storage_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UsageError(
                "is in use by another process", where=run, fix="Wait for it, or choose another --out."
            ) from error
    try:
        yield
    finally:
        # A run that failed before it made anything leaves nothing; done while the lock is held, so nobody else has it.
        if is_new and [p.name for p in run.iterdir()] == [".lock"]:
            with suppress(OSError):
                (run / ".lock").unlink()
                run.rmdir()
        lock.release()


def model_config(settings: PretrainSettings, made: Materials) -> ModelConfig:
    """Return the model's settings with the vocabulary of its tokenizer.

    Raises:
        ContractError: the settings name another vocabulary.
        UsageError: the text is shorter than one block.
    """
    config = settings.model.shape() if made.start is None else _start_config(settings, made.start)
    vocabulary = made.store.vocab_size
    if made.start is None:
        if config.vocab_size not in (None, 0, "auto", vocabulary):
            raise ContractError(
                "model.vocab_size is not the tokenizer's",
                found=config.vocab_size,
                expected=vocabulary,
                fix="Leave model.vocab_size out.",
            )
        config = config.model_copy(update={"vocab_size": vocabulary})
    if made.store.sequence is not None:
        from firstlight.stages import sequence_samples

        config = sequence_samples.one_a_row(settings, config, made.store.sequence - 1)
    if made.store.train.n_tokens <= config.block_size:
        raise UsageError(
            "the training text is shorter than one block",
            where="model.block_size",
            found=f"{made.store.train.n_tokens} tokens of text, block size {config.block_size}",
            fix=f"Set model.block_size below {made.store.train.n_tokens}, or bring more text.",
        )
    return config


def _start_config(settings: PretrainSettings, start: LM) -> ModelConfig:
    """Return the starting model's shape, which no setting may contradict."""
    asked = settings.model.shape().model_dump(include=settings.model.model_fields_set - {"init_std", "residual_init"})
    has = start.config.model_dump()
    differing = {key: value for key, value in asked.items() if value is not None and value != has[key]}
    if differing:
        raise ContractError(
            "the starting model has another shape",
            where=settings.run.start_from,
            found=", ".join(f"model.{key} {has[key]}" for key in differing),
            expected=", ".join(f"model.{key} {value}" for key, value in differing.items()),
            fix="Leave these settings out (or the preset that has them).",
        )
    return start.config


def rows_of(settings: PretrainSettings, config: ModelConfig, device_context: parallel.DeviceContext) -> int:
    """Return the rows of one update: ``batch_tokens`` in blocks, a multiple of the number of processes."""
    exact = settings.train.batch_tokens / config.block_size
    rows = max(1, round(exact / device_context.world_size)) * device_context.world_size
    if rows != exact:
        progress.notice(
            f"train.batch_tokens={settings.train.batch_tokens} is not a multiple of {device_context.world_size} "
            f"processes × block size {config.block_size}: {rows} rows, {rows * config.block_size} tokens a step"
        )
    return rows


def build_state(
    settings: PretrainSettings, config: ModelConfig, made: Materials, device_context: parallel.DeviceContext
) -> TrainState:
    """Build model and optimiser at the start of a run."""
    with skip_init():
        model = GPT(config)
        if made.vectors is not None:
            made.vectors.make_room(model)
    model.activation_checkpointing = settings.train.activation_checkpointing
    state = TrainState(
        model, optim.build_optimizer(model.named_parameters(), settings.optim, fused_splits=fused_splits(model))
    )
    start_over(state, settings, made, device_context)
    return state


def start_over(
    state: TrainState, settings: PretrainSettings, made: Materials, device_context: parallel.DeviceContext
) -> None:
    """Put weights, optimiser and random numbers at the start of the run."""
    model = state.model
    if made.start is not None:
        model.load_state_dict(made.start.model.state_dict())
    else:
        model.init_weights(torch.Generator().manual_seed(settings.run.seed))
    if made.vectors is not None:
        made.vectors.begin(model, settings.model.embeddings_length, settings.run.seed)
    _freeze(model, settings, None)
    model.to(device_context.device)
    state.optimizer = optim.build_optimizer(model.named_parameters(), settings.optim, fused_splits=fused_splits(model))
    if settings.train.ema_decay:
        state.ema = optim.ExponentialMovingAverage(model.named_parameters(), settings.train.ema_decay)
    state.scaler = parallel.scaler(device_context)
    parallel.seed_everything(settings.run.seed + device_context.rank)


def _freeze(model: GPT, settings: PretrainSettings, done: int | None) -> None:
    """Let the embeddings learn or not, after so many steps."""
    if settings.model.embeddings_frozen_steps:
        from firstlight.model.factorized_embedding import set_embedding_trainable

        set_embedding_trainable(model, settings.model.embeddings_frozen_steps, done)


def ctx(
    run: Path,
    settings: PretrainSettings,
    config: ModelConfig,
    made: Materials,
    device_context: parallel.DeviceContext,
    started: float,
) -> TrainContext:
    """Wire one run of the loop."""
    state = build_state(settings, config, made, device_context)
    rows = rows_of(settings, config, device_context)
    own = rows // device_context.world_size
    micro = settings.train.micro_batch
    if micro == "auto":
        guess = first_guess(
            config,
            own,
            device_context.device,
            bytes_per_number=4 if device_context.precision == "fp32" else 2,
            checkpointing=settings.train.activation_checkpointing,
            processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
        # Processes that see different free memory must still cut a step alike.
        micro = int(min(parallel.gather(guess, device_context)))
    state.counters.micro_rows = min(micro, own)
    made.store.train.advise()
    batches = Batches(
        made.store,
        block_size=config.block_size,
        seed=settings.run.seed,
        weights=settings.data.weights,
        document_masking=settings.data.document_masking,
        hidden=made.hidden(settings.image.unlabelled),
    )
    limits = Limits.resolve(
        settings.train,
        step_tokens=rows * config.block_size,
        epoch_tokens=batches.windows_per_epoch * config.block_size,
        parameters=sum(p.numel() for p in state.model.parameters()),
    )
    most = settings.train.eval_windows
    windows = Windows(
        made.store.valid,
        block_size=config.block_size,
        max_windows=None if most == "all" else most,
        document_masking=settings.data.document_masking,
        eot_id=made.store.eot_id,
        sequence=made.store.sequence,
    )
    tokenizer, codec, lengths = made.tokenizer, made.codec, made.vocabulary.byte_lengths()
    unit = "token" if codec is None else codec.UNIT
    generate = GenerateSettings(
        max_new_tokens=settings.train.sample_tokens,
        temperature=settings.train.sample_temperature,
        seed=settings.run.seed,
    )
    thaws = settings.model.embeddings_frozen_steps not in (0, "all")
    module = parallel.wrap(parallel.compile_module(LossModule(state.model), device_context), device_context, idle=thaws)
    facts = {"run": run.name, **({} if made.vectors is None else {"embeddings": made.vectors.name})}
    return TrainContext(
        run=run,
        state=state,
        module=module,
        objective=batches,
        rows=rows,
        optim=settings.optim,
        measure=(lambda n: validate(state.model, windows, lengths, device_context, n, unit))
        if windows.n_windows
        else None,
        train=settings.train,
        device_context=device_context,
        limits=limits,
        checkpoints=Checkpoints(
            run,
            lambda to, weights: save_pretrained(to, config, weights, tokenizer, facts, codec=codec),
            settings.train.keep_last,
        ),
        log=RunLog(run, active=parallel.is_main(device_context), trackers=settings.train.trackers),
        contract={
            "tokenizer": made.vocabulary.hash,
            "store": made.store.fingerprint,
            "code": code_hash(),
            **({} if made.vectors is None else {"embeddings": made.vectors.digest}),
        },
        sample=_sampler(state.model, made, settings.train.sample_prompt, generate),
        restart=lambda: start_over(state, settings, made, device_context),
        prepare=(lambda done: _freeze(state.model, settings, done)) if thaws else None,
        flops_per_token=flops_per_token(config, config.block_size),
        peak_flops=parallel.peak_flops(device_context),
        process_start=started,
    )


def _sampler(model: GPT, made: Materials, prompt: str, settings: GenerateSettings) -> Callable[[], str]:
    codec = made.codec
    if codec is None:
        return lambda: LM(model, made.tokenizer).generate(prompt, settings)[0].text
    from firstlight.stages import sequence_samples

    return lambda: sequence_samples.sample(LM(model, None, codec=codec), codec, settings)


def write_average(folder: Path, state: TrainState, made: Materials) -> None:
    """Write the averaged weights as a model directory of their own."""
    assert state.ema is not None
    with state.ema.average_parameters():
        lm = LM(state.model, made.tokenizer, codec=made.codec)
        lm.save(folder, {"weights": "an exponential average over the steps of the run"})


def process_start() -> float:
    """Return ``time.perf_counter()`` as it was when this command's process began, on Linux; elsewhere, now.

    A notebook's or a program's own life is none of a run's time, nor is that of a run before it.
    """
    now = time.perf_counter()
    is_command = Path(sys.argv[0]).stem == "firstlight" or sys.orig_argv[1:3] == ["-m", "firstlight"]
    if not is_command or _begun:
        return now
    _begun.append(now)
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return now - max(0.0, uptime - ticks)
    except (OSError, ValueError, IndexError):
        return now
