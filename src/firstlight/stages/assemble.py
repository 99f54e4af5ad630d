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
from firstlight.lm import LM, GenerateSettings, write
from firstlight.model import GPT, ModelConfig, flops_per_token, no_drawing, splits
from firstlight.stages.materials import Materials
from firstlight.stages.settings import PretrainSettings
from firstlight.store import Batches, Windows
from firstlight.train import Checkpoints, Job, Limits, LossModule, RunLog, TrainState, first_guess, validate

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
                "model.vocab_size is not the tokenizer's", found=config.vocab_size, expected=vocabulary,
                fix="Leave model.vocab_size out.",
            )  # fmt: skip
        config = config.model_copy(update={"vocab_size": vocabulary})
    if made.store.sequence is not None:
        from firstlight.stages import drawing

        config = drawing.one_a_row(settings, config, made.store.sequence - 1)
    if made.store.train.n_tokens <= config.block_size:
        raise UsageError(
            "the training text is shorter than one block", where="model.block_size",
            found=f"{made.store.train.n_tokens} tokens of text, block size {config.block_size}",
            fix=f"Set model.block_size below {made.store.train.n_tokens}, or bring more text.",
        )  # fmt: skip
    return config


def _start_config(settings: PretrainSettings, start: LM) -> ModelConfig:
    """Return the starting model's shape, which no setting may contradict."""
    asked = settings.model.shape().model_dump(include=settings.model.model_fields_set - {"init_std", "init_out"})
    has = start.config.model_dump()
    differing = {key: value for key, value in asked.items() if value is not None and value != has[key]}
    if differing:
        raise ContractError(
            "the starting model has another shape", where=settings.run.start_from,
            found=", ".join(f"model.{key} {has[key]}" for key in differing),
            expected=", ".join(f"model.{key} {value}" for key, value in differing.items()),
            fix="Leave these settings out (or the preset that has them).",
        )  # fmt: skip
    return start.config


def rows_of(settings: PretrainSettings, config: ModelConfig, place: parallel.Place) -> int:
    """Return the rows of one update: ``batch_tokens`` in blocks, a multiple of the number of processes."""
    exact = settings.train.batch_tokens / config.block_size
    rows = max(1, round(exact / place.world_size)) * place.world_size
    if rows != exact:
        progress.notice(
            f"train.batch_tokens={settings.train.batch_tokens} is no multiple of {place.world_size} × block size "
            f"{config.block_size}: one update takes {rows} rows, {rows * config.block_size} tokens"
        )
    return rows


def build_state(settings: PretrainSettings, config: ModelConfig, made: Materials, place: parallel.Place) -> TrainState:
    """Build model and optimiser at the start of a run."""
    with no_drawing():
        model = GPT(config)
        if made.vectors is not None:
            made.vectors.make_room(model)
    model.activation_checkpointing = settings.train.activation_checkpointing
    state = TrainState(model, optim.build(model.named_parameters(), settings.optim, splits=splits(model)))
    start_over(state, settings, made, place)
    return state


def start_over(state: TrainState, settings: PretrainSettings, made: Materials, place: parallel.Place) -> None:
    """Put weights, optimiser and random numbers at the start of the run."""
    model = state.model
    if made.start is not None:
        model.load_state_dict(made.start.model.state_dict())
    else:
        model.init_weights(torch.Generator().manual_seed(settings.run.seed))
    if made.vectors is not None:
        made.vectors.begin(model, settings.model.embeddings_length, settings.run.seed)
    _freeze(model, settings, None)
    model.to(place.device)
    state.optimizer = optim.build(model.named_parameters(), settings.optim, splits=splits(model))
    if settings.train.average_decay:
        state.average = optim.Average(model.named_parameters(), settings.train.average_decay)
    state.scaler = parallel.scaler(place)
    parallel.seed_everything(settings.run.seed + place.rank)


def _freeze(model: GPT, settings: PretrainSettings, done: int | None) -> None:
    """Let the embeddings learn or not, after so many steps."""
    if settings.model.embeddings_frozen_steps:
        from firstlight.model.word_vectors import freeze

        freeze(model, settings.model.embeddings_frozen_steps, done)


def job(
    run: Path, settings: PretrainSettings, config: ModelConfig, made: Materials, place: parallel.Place, started: float
) -> Job:
    """Wire one run of the loop."""
    state = build_state(settings, config, made, place)
    rows = rows_of(settings, config, place)
    own = rows // place.world_size
    micro = settings.train.micro_batch
    if micro == "auto":
        guess = first_guess(
            config, own, place.device, bytes_per_number=4 if place.precision == "fp32" else 2,
            checkpointing=settings.train.activation_checkpointing,
            processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )  # fmt: skip
        # Processes that see different free memory must still cut a step alike.
        micro = int(min(parallel.gather(guess, place)))
    state.counters.micro_rows = min(micro, own)
    made.store.train.advise()
    batches = Batches(
        made.store, block_size=config.block_size, seed=settings.run.seed,
        weights=settings.data.weights, document_masking=settings.data.document_masking,
        hidden=made.hidden(settings.image.unlabelled),
    )  # fmt: skip
    limits = Limits.resolve(
        settings.train, step_tokens=rows * config.block_size,
        epoch_tokens=batches.windows_per_epoch * config.block_size,
        parameters=sum(p.numel() for p in state.model.parameters()),
    )  # fmt: skip
    most = settings.train.eval_windows
    windows = Windows(
        made.store.valid, block_size=config.block_size, max_windows=None if most == "all" else most,
        document_masking=settings.data.document_masking, eot_id=made.store.eot_id, sequence=made.store.sequence,
    )  # fmt: skip
    tokenizer, codec, lengths = made.tokenizer, made.codec, made.vocabulary.byte_lengths()
    unit = "token" if codec is None else codec.UNIT
    generate = GenerateSettings(
        max_new_tokens=settings.train.sample_tokens,
        temperature=settings.train.sample_temperature,
        seed=settings.run.seed,
    )
    thaws = settings.model.embeddings_frozen_steps not in (0, "all")
    module = parallel.wrap(parallel.compile_module(LossModule(state.model), place), place, idle=thaws)
    facts = {"run": run.name, **({} if made.vectors is None else {"embeddings": made.vectors.name})}
    return Job(
        run=run, state=state, module=module,
        objective=batches, rows=rows, optim=settings.optim,
        measure=(lambda n: validate(state.model, windows, lengths, place, n, unit)) if windows.n_windows else None,
        train=settings.train, place=place, limits=limits,
        checkpoints=Checkpoints(
            run, lambda to, weights: write(to, config, weights, tokenizer, facts, codec=codec),
            settings.train.keep_last
        ),
        log=RunLog(run, active=parallel.is_main(place), trackers=settings.train.trackers),
        contract={
            "tokenizer": made.vocabulary.hash, "store": made.store.fingerprint, "code": code_hash(),
            **({} if made.vectors is None else {"embeddings": made.vectors.digest}),
        },
        sample=_sampler(state.model, made, settings.train.sample_prompt, generate),
        restart=lambda: start_over(state, settings, made, place),
        prepare=(lambda done: _freeze(state.model, settings, done)) if thaws else None,
        flops_per_token=flops_per_token(config, config.block_size), ceiling=parallel.ceiling(place),
        process_start=started,
    )  # fmt: skip


def _sampler(model: GPT, made: Materials, prompt: str, settings: GenerateSettings) -> Callable[[], str]:
    codec = made.codec
    if codec is None:
        return lambda: LM(model, made.tokenizer).generate(prompt, settings)[0].text
    from firstlight.stages import drawing

    return lambda: drawing.sample(LM(model, None, codec=codec), codec, settings)


def write_average(folder: Path, state: TrainState, made: Materials) -> None:
    """Write the averaged weights as a model directory of their own."""
    assert state.average is not None
    with state.average.swapped():
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
