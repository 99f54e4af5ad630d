"""What a run is made from: a corpus becomes a tokenizer and a token store; the model or vectors that it starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.errors import ContractError, UsageError
from firstlight.files import MANIFEST
from firstlight.lm import LM
from firstlight.stages.prepare_corpus import prepare_store
from firstlight.stages.settings import PretrainSettings
from firstlight.store import TokenStore
from firstlight.tokenizer import Codec, Tokenizer, load_vocab, save_vocab

if TYPE_CHECKING:
    from firstlight.stages.embedding_init import Vectors


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
        words = load_vocab(Path(settings.tokenizer.path) if settings.tokenizer.path else beside)
        # Our own stores list their documents: one without a manifest is half-written, not another program's.
        if (folder / "documents.safetensors").is_file() or not isinstance(words, Tokenizer):
            store = TokenStore.open(folder, tokenizer_hash=words.hash)
        else:
            from firstlight.store import adopt

            store = adopt(folder, words)
        save_vocab(words, run / "tokenizer")
    elif prepared and (run / "data" / MANIFEST).is_file():
        words = load_vocab(run / "tokenizer")
        store = TokenStore.open(run / "data", tokenizer_hash=words.hash)
    else:
        prepared_corpus = prepare_store(
            settings.run.corpus,
            settings,
            out=run / "data",
            tokenizer_dir=run / "tokenizer",
            seed=settings.run.seed,
            start_vocab=None if start is None else start.vocab,
        )
        words, store = prepared_corpus.vocab, prepared_corpus.store
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
