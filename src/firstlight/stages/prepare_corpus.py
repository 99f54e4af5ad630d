"""Turn a corpus into a token store and its tokenizer: the step that ``data prepare`` and ``pretrain`` share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from firstlight import tokenizer as tokenizers
from firstlight.corpus import CorpusSettings, IdSettings, ImageSettings, Kind, Tally, infer_kind, open_corpus
from firstlight.errors import UsageError
from firstlight.files import MANIFEST, source_hash, storage_errors
from firstlight.stages.sequences import open_sequences
from firstlight.stages.tokenizer_cache import cache_key, load_cached, save_cached, train_on_corpus
from firstlight.store import DataSettings, SourceLike, TokenStore, discard_preparation, preparation_folder, prepare
from firstlight.tokenizer import Codec, Tokenizer, TokenizerSettings, save_vocab

# Packages whose code determines the ids; the list of a whole run would import torch, which data prepare does not need.
_PACKAGES = ("corpus", "files", "tokenizer", "vectors", "store")
_TABLES: dict[str, Kind] = {"tokenizer": "text", "ids": "ids", "image": "images"}


class CorpusTables(Protocol):
    """The tables of settings that decide how a corpus becomes a token store."""

    @property
    def corpus(self) -> CorpusSettings:
        """Reading and cleaning."""
        ...

    @property
    def ids(self) -> IdSettings:
        """Pre-tokenized data."""
        ...

    @property
    def image(self) -> ImageSettings:
        """Images."""
        ...

    @property
    def tokenizer(self) -> TokenizerSettings:
        """The tokenizer to train or to load."""
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
    seed: int,
    start_vocab: Tokenizer | Codec | None = None,
) -> PreparedCorpus:
    """Write the token store of a corpus of text, ids or images, and save its tokenizer or codec.

    A tokenizer is trained on the corpus unless ``settings.tokenizer.path`` or ``start_vocab`` supplies one. What an
    earlier call with the same inputs wrote is reused.

    Args:
        corpus: files, folders, globs or named corpora, all of one kind.
        settings: the tables of a run or of ``data prepare``.
        out: the store's folder.
        tokenizer_dir: where the tokenizer or codec is saved; may be inside ``out``.
        seed: of the split by document, and of an image palette.
        start_vocab: the tokenizer or codec of the model that training starts from, if any.

    Raises:
        UsageError: settings that have no effect on a corpus of this kind.
        CompatibilityError: ``out`` holds a store made from other inputs.
    """
    inside = out in tokenizer_dir.parents
    # A new store replaces its whole folder: a tokenizer inside it is saved where the store is prepared.
    interim_dir = preparation_folder(out) / tokenizer_dir.relative_to(out) if inside else tokenizer_dir
    exists = (out / MANIFEST).is_file()
    kind = infer_kind(corpus, settings.corpus)
    _check_tables(kind, settings)
    vocab: Tokenizer | Codec
    sources: Sequence[SourceLike]
    key = None
    if kind == "text":
        opened = open_corpus(list(corpus), settings.corpus)
        start_tokenizer = start_vocab if isinstance(start_vocab, Tokenizer) else None
        if settings.tokenizer.path is None and start_tokenizer is None:
            key = cache_key(settings.tokenizer, opened)
            vocab = (
                load_cached(tokenizer_dir, key)
                or load_cached(interim_dir, key)
                or train_on_corpus(opened, settings.tokenizer, settings.corpus.on_bad_bytes)
            )
        else:
            vocab = _load_tokenizer(settings.tokenizer, start_tokenizer)
        sources = opened.sources
    else:
        codec = None if isinstance(start_vocab, Tokenizer) else start_vocab
        sequences = open_sequences(kind, corpus, settings.corpus, settings.ids, settings.image, seed=seed, codec=codec)
        vocab, sources, opened = sequences.codec, sequences.sources, sequences.corpus
    extra = {"code": source_hash(_PACKAGES)}
    if inside and exists:
        store = prepare(out, sources, vocab, settings.data, seed=seed, extra=extra)
        _save(vocab, tokenizer_dir, key)
        return PreparedCorpus(vocab, store, opened.tally)
    # The tokenizer is saved first, so that it need not be trained again after an interruption.
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _save(vocab, interim_dir, key)
        store = prepare(out, sources, vocab, settings.data, seed=seed, extra=extra)
    except Exception:
        if inside:
            discard_preparation(out)
        raise
    return PreparedCorpus(vocab, store, opened.tally)


def _save(vocab: Tokenizer | Codec, folder: Path, key: Mapping[str, Any] | None) -> None:
    if isinstance(vocab, Tokenizer):
        save_cached(folder, vocab, key)
    else:
        save_vocab(vocab, folder)


def _load_tokenizer(settings: TokenizerSettings, start_tokenizer: Tokenizer | None) -> Tokenizer:
    if settings.path is not None:
        return tokenizers.load(settings.path)
    assert start_tokenizer is not None
    if settings != TokenizerSettings():
        raise UsageError(
            "a run that starts from a model uses that model's tokenizer",
            where="tokenizer",
            fix="Leave out the tokenizer settings.",
        )
    return start_tokenizer


def _check_tables(kind: Kind, settings: CorpusTables) -> None:
    """Refuse settings that have no effect on a corpus of this kind."""
    for table, needs in _TABLES.items():
        given = getattr(settings, table)
        default = type(given)()
        if kind != needs and given != default:
            name, value = next((n, v) for n, v in given if v != getattr(default, n))
            raise UsageError(
                f"applies to a corpus of {needs}, but this corpus is {kind}",
                where=f"{table}.{name}",
                found=value,
                fix="Leave it out, or name another corpus.",
            )
