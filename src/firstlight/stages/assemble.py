"""Put a run together: tokenizer, token store, model, optimiser, loop. Wiring only; each part lives in its room."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout

from firstlight import optim, parallel, progress
from firstlight import tokenizer as tokenizers
from firstlight.corpus import Corpus, open_corpus
from firstlight.errors import ContractError, UsageError
from firstlight.files import MANIFEST, code_hash, storage_errors
from firstlight.lm import LM, GenerateSettings, write
from firstlight.model import GPT, ModelConfig, flops_per_token, no_drawing, splits
from firstlight.stages.origin import keep, made_before, origin_of, train_on
from firstlight.stages.settings import PretrainSettings
from firstlight.store import Batches, SourceLike, TokenStore, Windows, prepare
from firstlight.tokenizer import CODECS, Tokenizer, TokenizerSettings
from firstlight.train import Checkpoints, Job, Limits, LossModule, RunLog, TrainState, first_guess, validate

if TYPE_CHECKING:
    from firstlight.stages.vectors_of_run import Vectors
    from firstlight.tokenizer import Codec

# Holds one entry once a run of this process has counted from the process's beginning.
_begun: list[float] = []


@dataclass(frozen=True, slots=True)
class Materials:
    """What a run is made from: tokenizer, token store, and the model or the word vectors it starts from, if any.

    Attributes:
        vocabulary: the tokenizer, or what the ids mean of sequences that are no text.
    """

    vocabulary: "Tokenizer | Codec"
    store: TokenStore
    start: LM | None
    vectors: "Vectors | None" = None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None for sequences that are no text."""
        return self.vocabulary if isinstance(self.vocabulary, Tokenizer) else None

    @property
    def codec(self) -> "Codec | None":
        """None for texts."""
        return None if isinstance(self.vocabulary, Tokenizer) else self.vocabulary

    def hidden(self, share: float) -> tuple[float, int] | None:
        """Return the share of images whose class is not told in training, and the token that stands for it."""
        codec = self.codec
        return (share, codec.start_id) if codec is not None and codec.sequence and codec.classes and share else None


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


def materials(run: Path, settings: PretrainSettings, *, prepared: bool = False) -> Materials:
    """Make, or find made already, the tokenizer and the token store of a run.

    Args:
        run: the run directory.
        settings: of the run.
        prepared: take the run's own store where it is finished, without looking at the corpus, which may be gone.

    Raises:
        ContractError: a store, a tokenizer and a starting model that do not belong together.
    """
    vectors = None
    if settings.model.embeddings != "random" or settings.tokenizer.words == "vectors":
        from firstlight.stages import vectors_of_run

        settings = vectors_of_run.understood(settings)
    start = LM.read(settings.run.start_from) if settings.run.start_from else None
    if settings.run.store is not None:
        folder = Path(settings.run.store)
        beside = folder if (folder / "tokenizer.json").is_file() else folder / "tokenizer"
        words = _read_words(Path(settings.tokenizer.path) if settings.tokenizer.path else beside)
        # Our own stores list their documents: one without a manifest is half-written, not another program's.
        if (folder / "documents.safetensors").is_file() or not isinstance(words, Tokenizer):
            store = TokenStore.open(folder, tokenizer_hash=words.hash)
        else:
            from firstlight.store import adopt

            store = adopt(folder, words)
        _save_words(words, run / "tokenizer")
    elif prepared and (run / "data" / MANIFEST).is_file():
        words = _read_words(run / "tokenizer")
        store = TokenStore.open(run / "data", tokenizer_hash=words.hash)
    else:
        words, store = _prepared(run, settings, start)
    before = None if start is None else start.vocabulary
    if before is not None and before.hash != words.hash:
        raise ContractError(
            "the starting model was trained with another tokenizer", where=settings.run.start_from,
            found=f"{before.vocab_size} tokens, hash {before.hash[:12]}",
            expected=f"{words.vocab_size} tokens, hash {words.hash[:12]}",
            fix="Leave out the [tokenizer] settings, so that the starting model's own tokenizer is used.",
        )  # fmt: skip
    vectors = None
    if settings.model.embeddings != "random":
        if not isinstance(words, Tokenizer):
            raise UsageError("needs a corpus of text", where="model.embeddings", found=settings.model.embeddings)
        from firstlight.stages import vectors_of_run

        vectors = vectors_of_run.prepare(run, settings.model.embeddings, words, store, prepared=prepared)
    return Materials(words, store, start, vectors)


def _read_words(folder: Path) -> "Tokenizer | Codec":
    codec = tokenizers.read_codec(folder) if any((folder / name).is_file() for name in CODECS) else None
    return codec or tokenizers.load(folder)


def _save_words(words: "Tokenizer | Codec", folder: Path) -> None:
    if isinstance(words, Tokenizer):
        words.save(folder)
    else:
        tokenizers.save_codec(words, folder)


def _prepared(run: Path, settings: PretrainSettings, start: LM | None) -> "tuple[Tokenizer | Codec, TokenStore]":
    """Make the token store of a corpus, whatever it is made of."""
    from firstlight.corpus import kind_of  # a run on a store made before asks for no kind

    kind = kind_of(settings.run.corpus)
    _refuse_strange(kind, settings)
    words: Tokenizer | Codec
    sources: Sequence[SourceLike]
    if kind == "text":
        corpus = open_corpus(settings.run.corpus, settings.corpus)
        words, sources = _tokenizer(run, settings, corpus, start), corpus.sources
    else:
        from firstlight.stages import sequences

        known = None if start is None else start.codec
        opened = sequences.open_sequences(
            kind, settings.run.corpus, settings.corpus, settings.ids, settings.image,
            seed=settings.run.seed, known=known,
        )  # fmt: skip
        words, sources = opened.codec, opened.sources
        _save_words(words, run / "tokenizer")
    facts = {"code": code_hash()}
    return words, prepare(run / "data", sources, words, settings.data, seed=settings.run.seed, extra=facts)


def _refuse_strange(kind: str, settings: PretrainSettings) -> None:
    """Refuse settings that would do nothing for a corpus of this kind."""
    for table, its in (("tokenizer", "text"), ("ids", "ids"), ("image", "images")):
        given = getattr(settings, table)
        if kind != its and given != type(given)():
            name, value = next((n, v) for n, v in given if v != getattr(type(given)(), n))
            raise UsageError(
                f"is for a corpus of {its}, and this one is of {kind}", where=f"{table}.{name}", found=value,
                fix="Leave it out, or name another corpus.",
            )  # fmt: skip


def _tokenizer(run: Path, settings: PretrainSettings, corpus: Corpus, start: LM | None) -> Tokenizer:
    folder = run / "tokenizer"
    if settings.tokenizer.path is None and (start is None or start.tokenizer is None):
        origin = origin_of(settings.tokenizer, corpus)
        tokenizer = made_before(folder, origin) or train_on(corpus, settings.tokenizer)
        keep(folder, tokenizer, origin)
        return tokenizer
    if settings.tokenizer.path is not None:
        tokenizer = tokenizers.load(settings.tokenizer.path)
    elif settings.tokenizer != TokenizerSettings():
        raise UsageError(
            "a run that starts from a model takes that model's tokenizer", where="tokenizer",
            fix="Leave out the tokenizer settings.",
        )  # fmt: skip
    else:
        assert start is not None and start.tokenizer is not None
        tokenizer = start.tokenizer
    tokenizer.save(folder)
    return tokenizer


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
