"""Train a tokenizer on a stream of documents."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.settings import TokenizerSettings
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer, byte_characters
from firstlight.types import Document


def train(documents: Iterable[Document], settings: TokenizerSettings, *, n_bytes: int | None = None) -> Tokenizer:
    """Train the tokenizer that ``settings`` ask for; the same text gives the same tokenizer.

    Args:
        documents: text; pieces of a long document may follow one another.
        settings: kind and vocabulary.
        n_bytes: size of the text, for progress and for an automatic vocabulary.

    Raises:
        TokenizerError: there is no text, or too little for the vocabulary asked for.
    """
    if settings.kind == "byte":
        return _byte()
    text = _Text(documents, settings.sample_bytes, n_bytes)
    make = {"bpe": _bpe, "word": _word, "char": _char}[settings.kind]
    tokenizer = make(text, settings, n_bytes)
    if text.characters == 0:
        raise TokenizerError("there is no text to train a tokenizer on", fix="Check the corpus: every document is empty.")
    return tokenizer


class _Text:
    """Iterates over texts until enough bytes were seen, and counts characters."""

    def __init__(self, documents: Iterable[Document], most: int, total: int | None) -> None:
        self._documents, self._most, self._total = documents, most, total
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        seen = 0
        with progress.task("tokenizer", None if self._total is None else min(self._total, self._most), "B") as task:
            for document in self._documents:
                if not isinstance(document.content, str):
                    raise TokenizerError("a document is no text", where=document.source, fix="Prepare it without a tokenizer.")
                self.characters += len(document.content)
                size = len(document.content.encode("utf-8", "surrogatepass"))
                seen += size
                task.advance(size)
                yield document.content
                if seen >= self._most:
                    progress.notice(f"the tokenizer is trained on the first {seen / 1e6:,.0f} MB of the text")
                    return


def auto_vocabulary(n_bytes: int) -> int:
    """Return a vocabulary for a text: a power of two near its bytes / 500, from 512 to 32,768."""
    size = 512
    while size < 32_768 and size * 2 <= n_bytes / 250:
        size *= 2
    return size


def _bpe(text: _Text, settings: TokenizerSettings, n_bytes: int | None) -> Tokenizer:
    inner = Inner(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERNS[settings.pattern]), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    wanted = settings.vocab_size if isinstance(settings.vocab_size, int) else auto_vocabulary(n_bytes or 1 << 20)
    trainer = trainers.BpeTrainer(
        vocab_size=wanted, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=list(byte_characters().values()),
    )  # fmt: skip
    inner.train_from_iterator(_stretches(text), trainer)
    if settings.vocab_size != "auto" and inner.get_vocab_size() < wanted and text.characters:
        raise TokenizerError(
            "the text allows no vocabulary of that size", where="tokenizer.vocab_size", found=wanted,
            expected=f"at most {inner.get_vocab_size()}", fix="Lower tokenizer.vocab_size, or bring more text.",
        )  # fmt: skip
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _stretches(text: Iterable[str]) -> Iterator[str]:
    """Cut long texts at line ends, since the trainer holds each one whole on every core."""
    for piece in text:
        for first in range(0, len(piece), 1 << 16):
            yield piece[first : first + (1 << 16)]


def _byte() -> Tokenizer:
    vocabulary = {c: b for b, c in byte_characters().items()}
    inner = Inner(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END_OF_TEXT])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _char(text: _Text, settings: TokenizerSettings, n_bytes: int | None) -> Tokenizer:
    del settings, n_bytes
    seen: set[str] = set()
    for piece in text:
        seen.update(piece)
    vocabulary = {token: i for i, token in enumerate([END_OF_TEXT, UNKNOWN, *sorted(seen)])}
    return _word_level(vocabulary, pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse())


def _word(text: _Text, settings: TokenizerSettings, n_bytes: int | None) -> Tokenizer:
    del n_bytes
    # Han characters are words of their own; elsewhere runs of word characters, and single signs.
    before = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"), pre_tokenizers.Whitespace()])
    counts: Counter[str] = Counter()
    for piece in _stretches(text):
        counts.update(word for word, _ in before.pre_tokenize_str(piece))
    wanted = settings.vocab_size if isinstance(settings.vocab_size, int) else 32_768
    words = [w for w, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= settings.min_frequency]
    if isinstance(settings.vocab_size, int) and len(words) + 2 < wanted:
        raise TokenizerError(
            "the text has fewer different words", where="tokenizer.vocab_size", found=wanted, expected=f"at most {len(words) + 2}"
        )
    vocabulary = {token: i for i, token in enumerate([END_OF_TEXT, UNKNOWN, *words[: wanted - 2]])}
    return _word_level(vocabulary, before, decoders.WordPiece(prefix="##", cleanup=True))


def _word_level(vocabulary: dict[str, int], before: Any, decoder: Any) -> Tokenizer:
    inner = Inner(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = before
    inner.decoder = decoder
    inner.add_special_tokens([END_OF_TEXT, UNKNOWN])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=UNKNOWN)
