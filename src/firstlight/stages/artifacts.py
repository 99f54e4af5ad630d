"""What a run is made from: a corpus becomes a tokenizer and a token store; the model or vectors that it starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight import tokenizer as tokenizers
from firstlight.corpus import Corpus, open_corpus
from firstlight.errors import ContractError, UsageError
from firstlight.files import MANIFEST, code_hash
from firstlight.lm import LM
from firstlight.stages.settings import PretrainSettings
from firstlight.stages.tokenizer_cache import keep, made_before, origin_of, train_on
from firstlight.store import SourceLike, TokenStore, prepare
from firstlight.tokenizer import CODECS, Tokenizer, TokenizerSettings

if TYPE_CHECKING:
    from firstlight.stages.embedding_init import Vectors
    from firstlight.tokenizer import Codec


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


def materials(run: Path, settings: PretrainSettings, *, prepared: bool = False) -> Materials:
    """Make, or find made already, the tokenizer and the token store of a run.

    Args:
        run: the run directory.
        settings: of the run.
        prepared: take the run's own store where it is finished, without looking at the corpus, which may be gone.

    Raises:
        ContractError: a store, a tokenizer and a starting model that do not belong together.
    """
    if settings.model.embeddings != "random" or settings.tokenizer.words == "vectors":
        from firstlight.stages import embedding_init

        settings = embedding_init.understood(settings)
    start = LM.load_fp32(settings.run.start_from) if settings.run.start_from else None
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
    before = None if start is None else start.vocab
    if before is not None and before.hash != words.hash:
        raise ContractError(
            "the starting model was trained with another tokenizer",
            where=settings.run.start_from,
            found=f"{before.vocab_size} tokens, hash {before.hash[:12]}",
            expected=f"{words.vocab_size} tokens, hash {words.hash[:12]}",
            fix="Leave out the [tokenizer] settings, so that the starting model's own tokenizer is used.",
        )
    vectors = None
    if settings.model.embeddings != "random":
        if not isinstance(words, Tokenizer):
            raise UsageError("needs a corpus of text", where="model.embeddings", found=settings.model.embeddings)
        from firstlight.stages import embedding_init

        vectors = embedding_init.prepare(run, settings.model.embeddings, words, store, prepared=prepared)
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
            kind,
            settings.run.corpus,
            settings.corpus,
            settings.ids,
            settings.image,
            seed=settings.run.seed,
            known=known,
        )
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
                f"is for a corpus of {its}, and this one is of {kind}",
                where=f"{table}.{name}",
                found=value,
                fix="Leave it out, or name another corpus.",
            )


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
            "a run that starts from a model takes that model's tokenizer",
            where="tokenizer",
            fix="Leave out the tokenizer settings.",
        )
    else:
        assert start is not None and start.tokenizer is not None
        tokenizer = start.tokenizer
    tokenizer.save(folder)
    return tokenizer
