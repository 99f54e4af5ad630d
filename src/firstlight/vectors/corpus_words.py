"""A corpus as numbers of words, for training vectors: read once, held as four bytes a word."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.tokenizer.word_pretokenizer import word_cutter
from firstlight.types import Document
from firstlight.vectors.settings import VectorSettings

_LONGEST = 10_000  # words of a sentence: gensim leaves out what lies behind


@dataclass(frozen=True, slots=True)
class CorpusWords:
    """A text as numbers.

    Attributes:
        words: those that are common enough, the commonest first.
        counts: of each (V,).
        ids: the whole text (N,) int32; rare words are left out, and their neighbours are neighbours then.
        starts: where each document begins in it.
    """

    words: list[str]
    counts: np.ndarray
    ids: np.ndarray
    starts: np.ndarray

    def sentences(self) -> Iterator[np.ndarray]:
        """Yield stretches of ids that cross no document's border, of at most ten thousand."""
        for first, last in zip(self.starts, [*self.starts[1:], len(self.ids)], strict=True):
            for at in range(int(first), int(last), _LONGEST):
                yield self.ids[at : min(at + _LONGEST, int(last))]


def corpus_words(documents: Iterable[Document], settings: VectorSettings, n_bytes: int | None) -> CorpusWords:
    """Cut a corpus into words as the tokenizer of kind word does.

    Args:
        documents: text; pieces of a long one may follow one another, and a word that is cut between them is two.
        settings: which words are kept.
        n_bytes: size of the text, for progress.

    Raises:
        TokenizerError: a document that is no text, or fewer than two words that are common enough.
    """
    cutter, seen, held = word_cutter(), dict[str, int](), array("i")
    starts, begins = array("q"), True
    with progress.task("read", n_bytes, "B") as task:
        for document in documents:
            if not isinstance(document.content, str):
                raise TokenizerError("a document is no text", where=document.source)
            if begins:
                starts.append(len(held))
            begins = not document.continues
            text = document.content.lower() if settings.lower else document.content
            held.extend(seen.setdefault(word, len(seen)) for word, _ in cutter.pre_tokenize_str(text))
            task.advance(len(document.content.encode("utf-8", "surrogatepass")))
    found, raw = list(seen), np.frombuffer(held, dtype=np.int32)
    counts = np.bincount(raw, minlength=len(found))
    common = sorted(
        (i for i in range(len(found)) if counts[i] >= settings.min_count), key=lambda i: (-counts[i], found[i])
    )[: settings.max_words]
    if len(common) < 2:
        raise TokenizerError(
            "the text has too few words to train vectors",
            where="vectors.min_count",
            found=settings.min_count,
            fix="Lower vectors.min_count, or bring more text.",
        )
    numbers = np.full(len(found), -1, dtype=np.int32)
    numbers[common] = np.arange(len(common), dtype=np.int32)
    renamed = numbers[raw]
    kept = renamed >= 0
    before = np.concatenate([[0], np.cumsum(kept)])  # how many are kept before each place
    places = before[np.frombuffer(starts, dtype=np.int64)]
    return CorpusWords([found[i] for i in common], counts[common], renamed[kept], np.unique(places))
