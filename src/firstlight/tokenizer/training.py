"""Train a tokenizer on a stream of documents."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer.bpe import train_bpe
from firstlight.tokenizer.from_vocab import characters
from firstlight.tokenizer.settings import LEAST, TokenizerSettings
from firstlight.tokenizer.tokenizer import END_OF_TEXT, UNKNOWN, Tokenizer, without_surrogates
from firstlight.tokenizer.tokenizer_json import byte_characters
from firstlight.tokenizer.word_pretokenizer import word_cutter
from firstlight.types import Document


class SelectWords(Protocol):
    """Selects the words of a corpus that a file of word vectors has (``vectors.known``)."""

    def __call__(
        self, words: Sequence[str], counts: Counter[str], path: Path, *, fill: int, is_word: Callable[[str], bool]
    ) -> list[str]:
        """Return the selected words."""
        ...


_STRETCH = 1 << 16
_HEAD = 4 << 20


def train(
    documents: Iterable[Document],
    settings: TokenizerSettings,
    *,
    n_bytes: int | None = None,
    select_words: SelectWords | None = None,
) -> Tokenizer:
    """Train the tokenizer that ``settings`` ask for; the same text gives the same tokenizer.

    Args:
        documents: text; pieces of a long document may follow one another.
        settings: kind and vocabulary.
        n_bytes: size of the text where it is known, for progress and for an automatic vocabulary.
        select_words: selects the words of a vocabulary where ``settings.words`` is the path of word vectors
            (``vectors.known``).

    Raises:
        TokenizerError: there is no text, or too little for the vocabulary asked for.
    """
    if settings.kind == "byte":
        return _byte()
    text = _Text(documents, settings.sample_bytes, n_bytes)
    if settings.kind == "word":
        return _word(text, settings, select_words)
    return _bpe(text, settings) if settings.kind == "bpe" else _char(text, settings)


class _Text:
    """Iterates once over stretches of text until enough bytes were seen; a stretch ends where white space begins."""

    def __init__(self, documents: Iterable[Document], most: int, total: int | None) -> None:
        self._documents, self._most, self._total = documents, most, total
        self._empty = True
        self._stream = self._stretches()

    def __iter__(self) -> Iterator[str]:
        return self._stream

    def _stretches(self) -> Iterator[str]:
        seen, held = 0, ""
        with progress.task("tokenizer", None if self._total is None else min(self._total, self._most), "B") as task:
            for document in self._documents:
                if not isinstance(document.content, str):
                    raise TokenizerError(
                        "a document is no text", where=document.source, fix="Prepare it without a tokenizer."
                    )
                size = len(document.content.encode("utf-8", "surrogatepass"))
                seen += size
                *whole, last = _stretches(held + without_surrogates(document.content))
                yield from whole
                held = last
                if last and not document.continues:
                    yield last
                    held = ""
                self._empty = self._empty and size == 0
                task.advance(size)
                if seen >= self._most:
                    progress.notice(f"the tokenizer is trained on {seen / 1e6:,.0f} MB of the text")
                    break
            if held:
                yield held

    def vocabulary(self) -> int:
        """Return a vocabulary that suits the text, of which the beginning is read, and held, for that."""
        head: list[str] = []
        n_bytes, characters, whole = 0, set[str](), True
        for stretch in self._stream:
            head.append(stretch)
            n_bytes += len(stretch.encode("utf-8"))
            characters.update(stretch)
            if n_bytes >= _HEAD:
                whole = False
                break
        self._stream = chain(head, self._stream)
        return auto_vocabulary(
            n_bytes if whole else max(n_bytes, self._total or 0), sum(c > "\x7f" for c in characters)
        )

    def check(self) -> None:
        """Refuse to go on without any text."""
        if self._empty:
            raise TokenizerError(
                "there is no text to train a tokenizer on", fix="Check the corpus: every document is empty."
            )


def _stretches(text: str) -> Iterator[str]:
    """Cut a long text before white space, since the trainer holds each stretch whole on every core."""
    first = 0
    while len(text) - first > _STRETCH:
        window = (first + 1, first + _STRETCH)
        at = max(text.rfind(" ", *window), text.rfind("\n", *window))
        at = at if at > 0 else first + _STRETCH
        yield text[first:at]
        first = at
    yield text[first:]


def auto_vocabulary(n_bytes: int, n_characters: int = 0) -> int:
    """Return a vocabulary for a text: a power of two from 512 to 32,768.

    It is near the text's bytes / 500, and no smaller than all its characters, so that Chinese, which has
    thousands, is not cut into bytes.

    Args:
        n_bytes: size of the text.
        n_characters: different characters in it, beyond ASCII.
    """
    size = 512
    while size < 32_768 and (size * 2 <= n_bytes / 250 or size < n_characters + LEAST):
        size *= 2
    return size


def _bpe(text: _Text, settings: TokenizerSettings) -> Tokenizer:
    wanted = settings.vocab_size if isinstance(settings.vocab_size, int) else text.vocabulary()
    inner = train_bpe(text, settings.pattern, wanted, END_OF_TEXT)
    text.check()
    if settings.vocab_size != "auto" and inner.get_vocab_size() < wanted:
        raise TokenizerError(
            "the text allows no vocabulary of that size",
            where="tokenizer.vocab_size",
            found=wanted,
            expected=f"at most {inner.get_vocab_size()}",
            fix="Lower tokenizer.vocab_size, or bring more text.",
        )
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _byte() -> Tokenizer:
    vocabulary = {c: b for b, c in byte_characters().items()}
    inner = Inner(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END_OF_TEXT])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=None)


def _char(text: _Text, settings: TokenizerSettings) -> Tokenizer:
    del settings
    seen: set[str] = set()
    for piece in text:
        seen.update(piece)
    text.check()
    return characters([END_OF_TEXT, UNKNOWN, *sorted(seen)])


def _word(text: _Text, settings: TokenizerSettings, select_words: SelectWords | None) -> Tokenizer:
    before = word_cutter()
    counts: Counter[str] = Counter()
    for piece in text:
        counts.update(word for word, _ in before.pre_tokenize_str(piece))
    text.check()
    wanted = settings.vocab_size if isinstance(settings.vocab_size, int) else 32_768
    words = [w for w, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= settings.min_frequency]
    if settings.words == "vectors":
        raise TokenizerError(
            "there is no model here whose vectors could give the words",
            where="tokenizer.words",
            found="vectors",
            fix="Give the path of the vectors.",
        )
    if settings.words != "corpus":
        assert select_words is not None
        fill = wanted - 2 if isinstance(settings.vocab_size, int) else 0
        words = select_words(words, counts, Path(settings.words), fill=fill, is_word=lambda word: _is_one(before, word))
    if isinstance(settings.vocab_size, int) and len(words) + 2 < wanted:
        raise TokenizerError(
            "the text has fewer different words" if settings.words == "corpus" else "text and vectors have fewer words",
            where="tokenizer.vocab_size",
            found=wanted,
            expected=f"at most {len(words) + 2}",
            fix="Lower tokenizer.vocab_size, or bring more text.",
        )
    vocabulary = {token: i for i, token in enumerate([END_OF_TEXT, UNKNOWN, *words[: wanted - 2]])}
    spaced = decoders.WordPiece(prefix="##", cleanup=True)
    # Between Han characters, and before their signs, there are no spaces.
    joined = decoders.Replace(Regex(r"^ (?=[\p{Han}，。！？；：、”’」』）》])"), "")
    return _word_level(vocabulary, before, decoders.Sequence([spaced, joined]))


def _is_one(before: Any, word: str) -> bool:
    """Tell whether a word is cut no further."""
    return [part for part, _ in before.pre_tokenize_str(word)] == [word]


def _word_level(vocabulary: dict[str, int], before: Any, decoder: Any) -> Tokenizer:
    inner = Inner(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = before
    inner.decoder = decoder
    inner.add_special_tokens([END_OF_TEXT, UNKNOWN])
    return Tokenizer(inner, eot=END_OF_TEXT, unk=UNKNOWN)
