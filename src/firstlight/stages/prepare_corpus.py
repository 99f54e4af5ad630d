"""Turn a corpus into a token store and its tokenizer: the step that ``data prepare`` and ``pretrain`` share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from firstlight import tokenizer as tokenizers
from firstlight.corpus import (
    Corpus,
    Kind,
    Tally,
    TrainingCorpusSettings,
    infer_kind,
    open_corpus,
)
from firstlight.errors import CompatibilityError
from firstlight.files import MANIFEST, source_hash, storage_errors
from firstlight.stages.sequences import OpenedSequences, open_sequences
from firstlight.stages.tokenizer_cache import cache_key, load_cached, save_cached, train_on_corpus
from firstlight.stages.validation_text import check_valid_classes, check_valid_kind, hold_out, reading_valid
from firstlight.stages.vocab_settings import VocabTables, check_vocab, kind_of
from firstlight.store import DataSettings, SourceLike, TokenStore, discard_preparation, preparation_folder, prepare
from firstlight.tokenizer import Codec, Tokenizer, save_vocab

# Packages whose code determines the ids; the list of a whole run would import torch, which data prepare does not need.
_PACKAGES = ("corpus", "files", "tokenizer", "vectors", "store")


class CorpusTables(VocabTables, Protocol):
    """The tables of settings that decide how a corpus becomes a token store."""

    @property
    def corpus(self) -> TrainingCorpusSettings:
        """Reading and cleaning."""
        ...

    @property
    def data(self) -> DataSettings:
        """Splitting and mixing."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedCorpus:
    """A corpus as token ids.

    Attributes:
        vocab: the tokenizer of a text corpus; the codec of ids or images.
        store: the finished token store.
        tally: documents read and dropped; zeros where an existing store was reused.
    """

    vocab: Tokenizer | Codec
    store: TokenStore
    tally: Tally


def prepare_store(
    corpus: Sequence[str],
    settings: CorpusTables,
    *,
    out: Path,
    tokenizer_dir: Path,
    start_vocab: Tokenizer | Codec | None = None,
) -> PreparedCorpus:
    """Write the token store of a corpus of text, ids or images, and save its tokenizer or codec.

    A tokenizer is trained on the corpus unless ``settings.tokenizer.path`` or ``start_vocab`` supplies one. What an
    earlier call with the same inputs wrote is reused.

    Args:
        corpus: files, folders, globs or named corpora, all of one kind; their files are one source, in an order that
            does not depend on how they are named, unless ``settings.data.weights`` weighs the names.
        settings: the tables of a run or of ``data prepare``.
        out: the store's folder.
        tokenizer_dir: where the tokenizer or codec is saved; may be inside ``out``.
        start_vocab: the tokenizer or codec of the model that training starts from, if any.

    Raises:
        UsageError: settings of another kind than that of the tokenizer or codec that is used.
        CompatibilityError: ``out`` holds a store made from other inputs; or the corpus is of another kind than the
            model, or its tokenizer or codec is not as the settings say.
    """
    inside, seed = out in tokenizer_dir.parents, settings.data.seed
    # A new store replaces its whole folder: a tokenizer inside it is saved where the store is prepared.
    interim_dir = preparation_folder(out) / tokenizer_dir.relative_to(out) if inside else tokenizer_dir
    exists = (out / MANIFEST).is_file()
    kind = infer_kind(corpus, settings.corpus)
    if start_vocab is not None:
        _check_start(kind, settings, start_vocab)
    check_valid_kind(kind, settings)
    vocab: Tokenizer | Codec
    sources: Sequence[SourceLike]
    key = None
    if kind == "text":
        opened = open_corpus(corpus, settings.corpus, separate=settings.data.weights is not None)
        valid = open_corpus(settings.corpus.valid, reading_valid(settings))
        hold_out(opened, valid)
        valid_sources: Sequence[SourceLike] = valid.sources
        if settings.tokenizer.path is not None:
            vocab = tokenizers.load(settings.tokenizer.path)
            check_vocab(settings, vocab, settings.tokenizer.path)
        elif isinstance(start_vocab, Tokenizer):
            vocab = start_vocab
        else:
            key = cache_key(settings.tokenizer, opened)
            vocab = (
                load_cached(tokenizer_dir, key)
                or load_cached(interim_dir, key)
                or train_on_corpus(opened, settings.tokenizer, settings.corpus.on_bad_bytes)
            )
        sources = opened.sources
    else:
        codec = None if isinstance(start_vocab, Tokenizer) else start_vocab
        sequences, valid_sources = _open_sequences(kind, corpus, settings, seed=seed, codec=codec)
        vocab, sources, opened = sequences.codec, sequences.sources, sequences.corpus
    extra = {"code": source_hash(_PACKAGES)}
    if inside and exists:
        store = prepare(out, sources, vocab, settings.data, seed=seed, valid=valid_sources, extra=extra)
        _save(vocab, tokenizer_dir, key)
        return PreparedCorpus(vocab, store, opened.tally)
    # The tokenizer is saved first, so that it need not be trained again after an interruption.
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _save(vocab, interim_dir, key)
        store = prepare(out, sources, vocab, settings.data, seed=seed, valid=valid_sources, extra=extra)
    except Exception:
        if inside:
            discard_preparation(out)
        raise
    return PreparedCorpus(vocab, store, opened.tally)


def _open_sequences(
    kind: Literal["ids", "images"], corpus: Sequence[str], settings: CorpusTables, *, seed: int, codec: Codec | None
) -> tuple[OpenedSequences, Sequence[SourceLike]]:
    """Open a corpus of ids or images, and the sources of its validation text."""
    valid, separate = settings.corpus.valid, settings.data.weights is not None
    opened = open_sequences(
        kind, corpus, settings.corpus, settings.ids, settings.image, seed=seed, codec=codec, separate=separate
    )
    if not valid:
        hold_out(opened.corpus, Corpus([]))
        return opened, ()
    held_out = open_sequences(kind, valid, reading_valid(settings), settings.ids, settings.image, codec=opened.codec)
    check_valid_classes(opened.classes, held_out.classes, valid)
    hold_out(opened.corpus, held_out.corpus)
    return opened, held_out.sources


def _save(vocab: Tokenizer | Codec, folder: Path, key: Mapping[str, Any] | None) -> None:
    if isinstance(vocab, Tokenizer):
        save_cached(folder, vocab, key)
    else:
        save_vocab(vocab, folder)


def _check_start(kind: Kind, settings: CorpusTables, start_vocab: Tokenizer | Codec) -> None:
    """Check that the corpus is of the kind of the model to start from, and that the settings fit it."""
    if kind != kind_of(start_vocab):
        raise CompatibilityError(
            "the corpus is of another kind than the model to start from", found=kind, expected=kind_of(start_vocab)
        )
    if settings.tokenizer.path is None:
        check_vocab(settings, start_vocab, "the model to start from")
