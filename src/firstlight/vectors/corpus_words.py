"""A corpus as word ids, for training word vectors: read once, stored as four bytes per word."""

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from firstlight import progress
from firstlight.errors import MissingExtra, TokenizerError
from firstlight.tokenizer.word_pretokenizer import is_han, word_pretokenizer
from firstlight.types import Document
from firstlight.vectors.settings import VectorSettings

_MAX_SENTENCE_WORDS = 10_000  # gensim ignores what follows


@dataclass(frozen=True, slots=True)
class CorpusWords:
    """A text as word ids.

    Attributes:
        words: those that are frequent enough, the most frequent first.
        counts: of each word (V,).
        ids: the whole text (N,) int32, without rare words, whose neighbours become adjacent.
        starts: index in ``ids`` of the start of each document.
    """

    words: list[str]
    counts: np.ndarray
    ids: np.ndarray
    starts: np.ndarray

    def sentences(self) -> Iterator[np.ndarray]:
        """Yield chunks of ids that do not cross documents, of at most ten thousand."""
        for first, last in zip(self.starts, [*self.starts[1:], len(self.ids)], strict=True):
            for start in range(int(first), int(last), _MAX_SENTENCE_WORDS):
                yield self.ids[start : min(start + _MAX_SENTENCE_WORDS, int(last))]


def read_corpus_words(documents: Iterable[Document], settings: VectorSettings, n_bytes: int | None) -> CorpusWords:
    """Split a corpus into words as the tokenizer of kind word does, or Chinese as jieba does, and number them.

    Args:
        documents: text; a long document may arrive as several consecutive ones, and a word that is cut between two of
            them counts as two.
        settings: which words to keep.
        n_bytes: size of the text, for progress.

    Raises:
        TokenizerError: a document that is not text, or fewer than two words that are frequent enough.
        MissingExtra: jieba is not installed.
    """
    split, first_ids, raw_ids = _splitter(settings), dict[str, int](), array("i")
    starts, is_new_document = array("q"), True
    with progress.task("read", n_bytes, "B") as task:
        for document in documents:
            if not isinstance(document.content, str):
                raise TokenizerError("a document is not text", where=document.source)
            if is_new_document:
                starts.append(len(raw_ids))
            is_new_document = not document.continues
            text = document.content.lower() if settings.lower else document.content
            raw_ids.extend(first_ids.setdefault(word, len(first_ids)) for word in split(text))
            task.advance(len(document.content.encode("utf-8", "surrogatepass")))
    all_words, raw = list(first_ids), np.frombuffer(raw_ids, dtype=np.int32)
    counts = np.bincount(raw, minlength=len(all_words))
    frequent = sorted(
        (i for i in range(len(all_words)) if counts[i] >= settings.min_count), key=lambda i: (-counts[i], all_words[i])
    )[: settings.max_words]
    if len(frequent) < 2:
        raise TokenizerError(
            "the text has too few frequent words to train vectors",
            where="vectors.min_count",
            found=settings.min_count,
            fix="Lower vectors.min_count, or add text.",
        )
    new_ids = np.full(len(all_words), -1, dtype=np.int32)
    new_ids[frequent] = np.arange(len(frequent), dtype=np.int32)
    ids = new_ids[raw]
    is_kept = ids >= 0
    kept_before = np.concatenate([[0], np.cumsum(is_kept)])
    new_starts = kept_before[np.frombuffer(starts, dtype=np.int64)]
    return CorpusWords([all_words[i] for i in frequent], counts[frequent], ids[is_kept], np.unique(new_starts))


def _splitter(settings: VectorSettings) -> Callable[[str], Iterator[str]]:
    """Return the function that splits a text into words."""
    pre_tokenizer = word_pretokenizer()
    if settings.segmenter == "none":
        return lambda text: (word for word, _ in pre_tokenizer.pre_tokenize_str(text))
    try:
        import jieba
    except ImportError as error:
        raise MissingExtra("finding the words of Chinese", "zh") from error
    jieba.setLogLevel(logging.WARNING)  # it would print that it loads

    def split(text: str) -> Iterator[str]:
        run, end = "", -1  # of Chinese characters side by side
        for word, (start, next_end) in pre_tokenizer.pre_tokenize_str(text):
            if run and (start != end or not is_han(word)):
                yield from jieba.cut(run)
                run = ""
            if is_han(word):
                run, end = run + word, next_end
            else:
                yield word
        yield from jieba.cut(run)

    return split
