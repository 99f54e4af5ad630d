"""Prepare what a pre-training run is built from: vocabulary, token store, and a model or word vectors to start from."""

from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from firstlight import parallel, progress
from firstlight.corpus import infer_kind, open_corpus
from firstlight.errors import CompatibilityError, FirstlightError, StoreError, UsageError
from firstlight.files import MANIFEST
from firstlight.lm import LM, GenerationConfig
from firstlight.model import ModelConfig
from firstlight.runs import RunDirectory
from firstlight.shell import command_line, unused_path
from firstlight.stages import embedding_init
from firstlight.stages.embedding_init import EmbeddingVectors
from firstlight.stages.init_model import keep_base, load_init_model, saved_model
from firstlight.stages.prepare_corpus import prepare_store
from firstlight.stages.settings import PretrainSettings
from firstlight.stages.unknown_text import check_unknown, report_store
from firstlight.stages.vocab_settings import check_vocab
from firstlight.store import TokenStore, adopt, open_store
from firstlight.tokenizer import Codec, Tokenizer, load_vocab, save_vocab

Vocab = Tokenizer | Codec

_MAX_COMPARED_BYTES = 64 << 20  # of a corpus that is hashed at every resume


@dataclass(frozen=True, slots=True)
class PretrainArtifacts:
    """What a pre-training run is built from.

    Attributes:
        vocab: the tokenizer, or the codec of sequences that are not text.
        store: the token store.
        init_lm: the model whose weights the run starts from, if any; also None where it goes on from a checkpoint.
        generation: special ids and settings of generation of that model, which checkpoints keep.
        vectors: the word vectors that the embeddings are initialised from, if any.
    """

    vocab: Vocab
    store: TokenStore
    init_lm: LM | None
    generation: GenerationConfig | None = None
    vectors: EmbeddingVectors | None = None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None for sequences that are not text."""
        return self.vocab if isinstance(self.vocab, Tokenizer) else None

    @property
    def codec(self) -> Codec | None:
        """The codec; None for text."""
        return None if isinstance(self.vocab, Tokenizer) else self.vocab

    def class_dropout(self, ratio: float) -> tuple[float, int] | None:
        """Return the ratio of images whose class is dropped in training, and the token that replaces it."""
        codec = self.codec
        return (
            (ratio, codec.start_id) if codec is not None and codec.sequence_length and codec.classes and ratio else None
        )


def prepare_artifacts(
    run: RunDirectory, settings: PretrainSettings, *, prepared: bool = False, restores: bool = False
) -> PretrainArtifacts:
    """Make the tokenizer and the token store of a run, or read those made before.

    Args:
        run: the run directory.
        settings: of the run.
        prepared: use the run's own store if it is complete, without looking at the corpus, which may be gone.
        restores: the run goes on from a checkpoint, without the model that it started from, which may be gone.

    Raises:
        CompatibilityError: a store, a tokenizer and a model to start from that do not belong together.
        StoreError: most of the text is unknown to the tokenizer.
    """
    settings = embedding_init.resolve_vocab_source(settings)
    init_lm, generation = None, None
    if settings.run.init_from and restores:
        generation = saved_model(run).generation
    elif settings.run.init_from:
        init_lm = load_init_model(run, settings.run.init_from, own=prepared)
        generation = init_lm.generation
        init_config(settings, init_lm)  # before the corpus is read, which may take hours
        if init_lm.vocab is None and settings.run.store is None and settings.tokenizer.path is None:
            _refuse_new_vocab(settings)
        if not prepared and parallel.is_first_rank():
            assert init_lm.source is not None, "it was read from there"
            keep_base(init_lm.source, run.base)
    vocab, store = _vocab_and_store(run, settings, init_lm, prepared=prepared)
    report_store(store, vocab)
    check_unknown(store, vocab, settings.data.max_unk_fraction)
    if (names := store.source_names("valid_sources")) and parallel.is_first_rank():
        progress.notice(f"validation text: {', '.join(names)} ({store.valid.n_tokens:,} tokens)")
    before = None if init_lm is None else init_lm.vocab
    if init_lm is not None and before is None:
        _check_size(settings, init_lm, vocab)
    if before is not None and before.hash != vocab.hash:
        raise CompatibilityError(
            "the model to start from was trained with another tokenizer",
            where=settings.run.init_from,
            found=f"{before.vocab_size} tokens, hash {before.hash[:12]}",
            expected=f"{vocab.vocab_size} tokens, hash {vocab.hash[:12]}",
            fix="Leave out the [tokenizer] settings, so that the model's own tokenizer is used.",
        )
    vectors = None
    if settings.model.embeddings != "random":
        if not isinstance(vocab, Tokenizer):
            raise UsageError("needs a corpus of text", where="model.embeddings", found=settings.model.embeddings)
        vectors = embedding_init.prepare_vectors(
            run,
            settings.model.embeddings,
            vocab,
            store,
            prepared=prepared,
            on_bad_bytes=settings.corpus.on_bad_bytes,
        )
    return PretrainArtifacts(vocab, store, init_lm, generation, vectors)


def init_config(settings: PretrainSettings, init_lm: LM) -> ModelConfig:
    """Return the shape of the model to start from, which no setting may contradict.

    Raises:
        CompatibilityError: one does.
    """
    specified = settings.model.shape().model_dump(
        include=settings.model.model_fields_set - {"init_std", "residual_init"}
    )
    actual = init_lm.config.model_dump()
    differing = {key: value for key, value in specified.items() if value is not None and value != actual[key]}
    if differing:
        raise CompatibilityError(
            "the model to start from has another shape",
            where=settings.run.init_from,
            found=", ".join(f"model.{key} {actual[key]}" for key in differing),
            expected=", ".join(f"model.{key} {value}" for key, value in differing.items()),
            fix="Leave these settings out (or the preset that has them).",
        )
    return init_lm.config


def _vocab_and_store(
    run: RunDirectory, settings: PretrainSettings, init_lm: LM | None, *, prepared: bool
) -> tuple[Vocab, TokenStore]:
    if settings.run.store is not None:
        return _open_store(run, settings, Path(settings.run.store), prepared=prepared)
    if prepared and (run.data / MANIFEST).is_file():
        vocab = load_vocab(run.tokenizer)
        store = _open_own_store(run, settings, vocab)
        if isinstance(vocab, Tokenizer) and parallel.is_first_rank():
            _report_changed_corpus(run, settings, store)
        return vocab, store
    corpus = prepare_store(
        settings.run.corpus,
        settings,
        out=run.data,
        tokenizer_dir=run.tokenizer,
        start_vocab=None if init_lm is None else init_lm.vocab,
    )
    return corpus.vocab, corpus.store


def _report_changed_corpus(run: RunDirectory, settings: PretrainSettings, store: TokenStore) -> None:
    """Say that the files of a corpus are not those that a run goes on with; nothing of files that are gone or large."""
    names = settings.run.corpus
    if not names or not all(Path(name).exists() or has_magic(name) for name in names):
        return
    try:
        sources = open_corpus(names, settings.corpus, separate=settings.data.weights is not None).sources
        if sum(source.n_bytes for source in sources) > _MAX_COMPARED_BYTES:
            return
        found = [source.fingerprint() for source in sources]
    except (FirstlightError, OSError):  # whoever resumes does not need the corpus
        return
    made_from = store.manifest.get("made_from")
    if isinstance(made_from, dict) and made_from.get("sources", found) != found:
        again = command_line("pretrain", *names, "--from", run.path, "--out", unused_path(run.path))
        progress.warn(
            f"{', '.join(names)}: not as it was when {run.data} was made from it; the run continues on the text as it "
            f"was. A new run from these weights, on the text as it is now: {again}"
        )


def _refuse_new_vocab(settings: PretrainSettings) -> None:
    """Refuse to make a tokenizer or codec for a model that lacks its own: each embedding would mean something else."""
    kind = infer_kind(settings.run.corpus, settings.corpus)
    if kind == "ids":
        return  # which are what they are
    if kind == "images":
        problem, fix = "has no pixels.json, so what its tokens stand for is unknown", "Put that file into its folder."
    else:
        problem = "has no tokenizer, so what its embeddings stand for is unknown"
        fix = "Name the tokenizer that it was trained with: tokenizer.path=TOKENIZER"
    raise UsageError(problem, where=settings.run.init_from, fix=fix)


def _check_size(settings: PretrainSettings, init_lm: LM, vocab: Vocab) -> None:
    """Check that a model without a tokenizer has an embedding for each token of the one that it is given."""
    V = init_lm.config.vocab_size or 0
    if vocab.vocab_size > V:
        raise CompatibilityError(
            "the model to start from has fewer embeddings than there are tokens",
            where=settings.run.init_from,
            found=f"{V} embeddings",
            expected=f"{vocab.vocab_size} tokens",
            fix="Name the tokenizer that it was trained with: tokenizer.path=TOKENIZER",
        )


def _verifies(settings: PretrainSettings, store: Path) -> bool:
    """Whether this process verifies the store; rank 0 does so for all."""
    if not parallel.is_first_rank():
        return False
    if not settings.data.verify:
        progress.notice(f"{store}: used without verifying its contents, by data.verify=false")
    return settings.data.verify


def _open_own_store(run: RunDirectory, settings: PretrainSettings, vocab: Vocab) -> TokenStore:
    try:
        return open_store(run.data, tokenizer_hash=vocab.hash, verify=_verifies(settings, run.data))
    except StoreError as error:
        fix = f"Delete {run.data} and use --resume: it is made again from the corpus."
        raise StoreError(error.problem, where=error.where, found=error.found, fix=fix) from error


def _open_store(
    run: RunDirectory, settings: PretrainSettings, folder: Path, *, prepared: bool
) -> tuple[Vocab, TokenStore]:
    """Open a token store made before, ours or Megatron-LM's, and copy its vocabulary into the run."""
    if run.exists and not folder.is_dir():
        raise UsageError(
            "the token store of the run is not there",
            where=f"{run.settings_file}: run.store",
            found=folder,
            fix="Put it back, or add its new place to the command, as run.store=FOLDER.",
        )
    own = folder if (folder / "tokenizer.json").is_file() else folder / "tokenizer"
    if prepared and run.exists:  # the file of tokenizer.path may be gone
        own = run.tokenizer
    elif settings.tokenizer.path:
        own = Path(settings.tokenizer.path)
    vocab = load_vocab(own)
    # Our own stores list their documents: one of them without a manifest is incomplete, not another program's.
    if (folder / "documents.safetensors").is_file() or not isinstance(vocab, Tokenizer):
        store = open_store(folder, tokenizer_hash=vocab.hash, verify=_verifies(settings, folder))
    else:
        store = adopt(folder, vocab, verify=_verifies(settings, folder))
    check_vocab(settings, vocab, str(settings.tokenizer.path or folder))
    save_vocab(vocab, run.tokenizer)
    return vocab, store
