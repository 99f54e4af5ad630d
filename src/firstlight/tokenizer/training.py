"""Train a tokenizer on a stream of documents."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer.bpe import train_bpe
from firstlight.tokenizer.from_vocab import build_char_level
from firstlight.tokenizer.patterns import HAN_SPACE_PATTERN
from firstlight.tokenizer.settings import MIN_VOCAB_SIZE, TokenizerSettings
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer, without_surrogates
from firstlight.tokenizer.tokenizer_json import bytes_to_unicode
from firstlight.tokenizer.word_pretokenizer import is_han, word_pretokenizer
from firstlight.types import Document

_CHUNK_CHARACTERS = 1 << 16
_HEAD_BYTES = 4 << 20  # read to choose a vocabulary size
_DEFAULT_WORDS = 32_768
_MAX_HAN = 0.2  # of the words, above which a text is Chinese


class SelectWords(Protocol):
    """Selects the words of a corpus that have a word vector (``vectors.select_words``)."""

    def __call__(
        self, words: Sequence[str], counts: Counter[str], path: Path, *, n_words: int, is_word: Callable[[str], bool]
    ) -> list[str]:
        """Return the selected words."""
        ...


def train(
    documents: Iterable[Document],
    settings: TokenizerSettings,
    *,
    n_bytes: int | None = None,
    select_words: SelectWords | None = None,
) -> Tokenizer:
    """Train the tokenizer that ``settings`` specify; the same text gives the same tokenizer.

    Args:
        documents: text; a long document may arrive as several consecutive ones.
        settings: kind and vocabulary.
        n_bytes: size of the text if it is known, for progress and for ``vocab_size="auto"``.
        select_words: selects the vocabulary where ``settings.vocab_source`` is a path of word vectors
            (``vectors.select_words``).

    Raises:
        TokenizerError: no text, or too little for the requested vocabulary.
    """
    if settings.kind == "byte":
        return _build_byte_level()
    text = _TextChunks(documents, settings.sample_bytes, n_bytes)
    if settings.kind == "word":
        return _train_word(text, settings, select_words)
    return _train_bpe(text, settings) if settings.kind == "bpe" else _train_char(text, settings)


class _TextChunks:
    """Iterates once over chunks of text, each starting at white space, until ``limit`` bytes were read."""

    def __init__(self, documents: Iterable[Document], limit: int, total: int | None) -> None:
        self._documents, self._limit, self._total = documents, limit, total
        self._empty = True
        self._chunks = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._chunks

    def _read(self) -> Iterator[str]:
        n_bytes, pending = 0, ""
        expected = None if self._total is None else min(self._total, self._limit)
        with progress.task("tokenizer", expected, "B") as task:
            for document in self._documents:
                if not isinstance(document.content, str):
                    raise TokenizerError(
                        "a document is not text", where=document.source, fix="Prepare it without a tokenizer."
                    )
                size = len(document.content.encode("utf-8", "surrogatepass"))
                n_bytes += size
                *complete, last = _split_chunks(pending + without_surrogates(document.content))
                yield from complete
                pending = last
                if last and not document.continues:
                    yield last
                    pending = ""
                self._empty = self._empty and size == 0
                task.advance(size)
                if n_bytes >= self._limit:
                    progress.notice(f"training the tokenizer on the first {n_bytes / 1e6:,.0f} MB of text")
                    break
            if pending:
                yield pending

    def choose_vocab_size(self) -> int:
        """Choose a vocabulary size for the text, from its first megabytes, which are kept in memory."""
        head: list[str] = []
        n_bytes, characters, complete = 0, set[str](), True
        for chunk in self._chunks:
            head.append(chunk)
            n_bytes += len(chunk.encode("utf-8"))
            characters.update(chunk)
            if n_bytes >= _HEAD_BYTES:
                complete = False
                break
        self._chunks = chain(head, self._chunks)
        n_bytes = n_bytes if complete else max(n_bytes, self._total or 0)
        return auto_vocab_size(n_bytes, sum(c > "\x7f" for c in characters))

    def check_not_empty(self) -> None:
        """Raise if there was no text."""
        if self._empty:
            raise TokenizerError("no text to train a tokenizer on", fix="Check the corpus: every document is empty.")


def _split_chunks(text: str) -> Iterator[str]:
    """Split a long text before white space; BPE training copies each chunk to every core."""
    start = 0
    while len(text) - start > _CHUNK_CHARACTERS:
        window = (start + 1, start + _CHUNK_CHARACTERS)
        end = max(text.rfind(" ", *window), text.rfind("\n", *window))
        end = end if end > 0 else start + _CHUNK_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]


def auto_vocab_size(n_bytes: int, n_characters: int = 0) -> int:
    """Choose a vocabulary size for a text: a power of two from 512 to 32,768.

    It is about the text's bytes / 500, and larger than the number of characters, so that Chinese text, which has
    thousands, is not encoded as bytes.

    Args:
        n_bytes: size of the text.
        n_characters: number of distinct non-ASCII characters.
    """
    size = 512
    while size < 32_768 and (size * 2 <= n_bytes / 250 or size < n_characters + MIN_VOCAB_SIZE):
        size *= 2
    return size


def _train_bpe(text: _TextChunks, settings: TokenizerSettings) -> Tokenizer:
    vocab_size = settings.vocab_size if isinstance(settings.vocab_size, int) else text.choose_vocab_size()
    inner = train_bpe(text, settings.pattern, vocab_size, END_OF_TEXT)
    text.check_not_empty()
    if settings.vocab_size != "auto" and inner.get_vocab_size() < vocab_size:
        raise TokenizerError(
            "the text is too short for a vocabulary of that size",
            where="tokenizer.vocab_size",
            found=vocab_size,
            expected=f"at most {inner.get_vocab_size()}",
            fix="Lower tokenizer.vocab_size, or add text.",
        )
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _build_byte_level() -> Tokenizer:
    vocab = {c: b for b, c in bytes_to_unicode().items()}
    inner = Inner(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END_OF_TEXT])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _train_char(text: _TextChunks, settings: TokenizerSettings) -> Tokenizer:
    counts: Counter[str] = Counter()
    for chunk in text:
        counts.update(chunk)
    text.check_not_empty()
    kept = sorted(c for c, n in counts.items() if n >= settings.min_count)
    _report_rare("characters", counts, kept, "are spelled in bytes" if settings.byte_fallback else "become <unk>")
    special = [END_OF_TEXT] if settings.byte_fallback else [END_OF_TEXT, UNKNOWN]
    return build_char_level([*special, *kept], byte_fallback=settings.byte_fallback)


def _report_rare(what: str, counts: Counter[str], kept: Collection[str], become: str) -> None:
    """Say how much of the training text is outside the vocabulary."""
    total, known = counts.total(), sum(counts[token] for token in kept)
    if total > known:
        share = 100 * (total - known) / total
        progress.notice(
            f"tokenizer: {total - known:,} of {total:,} {what} of the text ({share:.1f} %), "
            f"{len(counts) - len(kept):,} different ones, are not in the vocabulary and {become}"
        )


def _report_chinese(counts: Counter[str]) -> None:
    """Say that words are characters in Chinese text."""
    total, n_han = counts.total(), sum(n for word, n in counts.items() if is_han(word))
    if n_han > _MAX_HAN * total:
        progress.warn(
            f"tokenizer: kind word does not find the words of Chinese: each character is one "
            f"({100 * n_han / total:.0f} % of the words here), also between spaces. tokenizer.kind=bpe learns its words"
        )


def _train_word(text: _TextChunks, settings: TokenizerSettings, select_words: SelectWords | None) -> Tokenizer:
    pre_tokenizer = word_pretokenizer()
    counts: Counter[str] = Counter()
    for chunk in text:
        counts.update(word for word, _ in pre_tokenizer.pre_tokenize_str(chunk))
    text.check_not_empty()
    _report_chinese(counts)
    fixed_size = settings.vocab_size if isinstance(settings.vocab_size, int) else None
    words = [w for w, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= settings.min_count]
    if settings.vocab_source == "vectors":
        raise TokenizerError(
            "there is no model whose word vectors could supply the words",
            where="tokenizer.vocab_source",
            found="vectors",
            fix="Set it to the path of the vectors.",
        )
    if settings.vocab_source != "corpus":
        assert select_words is not None
        words = select_words(
            words,
            counts,
            Path(settings.vocab_source),
            n_words=0 if fixed_size is None else fixed_size - 2,
            is_word=lambda word: [part for part, _ in pre_tokenizer.pre_tokenize_str(word)] == [word],
        )
    if fixed_size is not None and len(words) + 2 < fixed_size:
        source = "the text" if settings.vocab_source == "corpus" else "text and vectors together"
        raise TokenizerError(
            f"too few distinct words in {source}",
            where="tokenizer.vocab_size",
            found=fixed_size,
            expected=f"at most {len(words) + 2}",
            fix="Lower tokenizer.vocab_size, or add text.",
        )
    kept = words[: (fixed_size or _DEFAULT_WORDS) - 2]
    _report_rare("words", counts, kept, "become <unk>")
    tokens = [END_OF_TEXT, UNKNOWN, *kept]
    wordpiece = decoders.WordPiece(prefix="##", cleanup=True)
    join_han = decoders.Replace(Regex(HAN_SPACE_PATTERN), "")
    return _build_word_level(tokens, pre_tokenizer, decoders.Sequence([wordpiece, join_han]))


def _build_word_level(tokens: Sequence[str], pre_tokenizer: Any, decoder: Any) -> Tokenizer:
    inner = Inner(models.WordLevel(vocab={token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizer
    inner.decoder = decoder
    inner.add_special_tokens([END_OF_TEXT, UNKNOWN])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=UNKNOWN)
