"""Train word vectors on a corpus: word2vec with gensim, or GloVe."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import progress
from firstlight.errors import MissingExtra
from firstlight.types import Document
from firstlight.vectors.corpus_words import CorpusWords, read_corpus_words
from firstlight.vectors.settings import VectorSettings
from firstlight.vectors.word_vectors import WordVectors

_LR = {"cbow": 0.05, "skipgram": 0.025}


def train(
    documents: Iterable[Document], settings: VectorSettings, *, n_bytes: int | None, out: Path
) -> tuple[WordVectors, int]:
    """Train vectors for the words of a corpus; return them, the most frequent word first, and the text's word count.

    Args:
        documents: the text.
        settings: method, width and the rest.
        n_bytes: size of the text, for progress.
        out: where the vectors will be written, for error messages.

    Raises:
        TokenizerError: too little text.
        MissingExtra: word2vec needs gensim, which is not installed.
    """
    if settings.method != "glove":
        _word2vec_class()  # fails before a large text is read
    text = read_corpus_words(documents, settings, n_bytes)
    if settings.method == "glove":
        from firstlight.vectors.glove import train_glove  # loads torch

        matrix = train_glove(text, settings)
    else:
        matrix = _train_word2vec(text, settings)
    return WordVectors(text.words, matrix, out), len(text.ids)


def _word2vec_class() -> Any:
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise MissingExtra("training word2vec", "vectors") from error
    return Word2Vec


class _Sentences:
    """Iterates over lists of words, once per epoch, for gensim."""

    def __init__(self, text: CorpusWords, task: progress.Task) -> None:
        self._text, self._task = text, task

    def __iter__(self) -> Iterator[list[str]]:
        words = self._text.words
        for ids in self._text.sentences():
            yield [words[i] for i in ids]
            self._task.advance(len(ids))


def _train_word2vec(text: CorpusWords, settings: VectorSettings) -> np.ndarray:
    """Train skip-gram or CBOW with negative sampling, on the words that were counted already."""
    with progress.task("word2vec", settings.epochs * len(text.ids), "words") as task:
        model = _word2vec_class()(
            vector_size=settings.width,
            window=settings.window,
            min_count=1,
            sg=int(settings.method == "skipgram"),
            negative=settings.negative,
            sample=settings.sample,
            seed=settings.seed,
            workers=settings.threads,
            alpha=settings.lr or _LR[settings.method],
            compute_loss=False,
            shrink_windows=True,
        )
        # The words are sorted by count already, an order that gensim's sort keeps.
        model.build_vocab_from_freq({w: int(n) for w, n in zip(text.words, text.counts, strict=True)})
        model.train(_Sentences(text, task), total_words=len(text.ids), total_examples=None, epochs=settings.epochs)
    rows = [model.wv.key_to_index[word] for word in text.words]
    return np.asarray(model.wv.vectors[rows], dtype=np.float32)
