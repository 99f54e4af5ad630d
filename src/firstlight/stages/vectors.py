"""``tokenizer vectors``: train and evaluate word vectors."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from firstlight.config import Settings, parse_overrides, resolve
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import UsageError
from firstlight.types import Paths, as_list
from firstlight.vectors import OnBadBytes, VectorSettings, check_vectors_output, read_vectors, write_vectors
from firstlight.vectors.evaluation import (
    AnalogySection,
    WordPairsResult,
    evaluate_word_analogies,
    evaluate_word_pairs,
)
from firstlight.vectors.training import train as train_vectors

_N_EXAMPLES = 8
_ON_BAD_BYTES: tuple[OnBadBytes, ...] = get_args(OnBadBytes)


class VectorsTrainSettings(Settings):
    """Settings of ``tokenizer vectors train``."""

    corpus: CorpusSettings = CorpusSettings()
    vectors: VectorSettings = VectorSettings()


@dataclass(frozen=True, slots=True)
class VectorsTrainResult:
    """Trained word vectors.

    Attributes:
        n_words: words that have a vector.
        width: dimensions of a vector.
        text_words: words of training text per epoch.
        most_frequent: the first words.
    """

    path: Path
    method: str
    n_words: int
    width: int
    text_words: int
    most_frequent: list[str]


@dataclass(frozen=True, slots=True)
class VectorsEvalResult:
    """Metrics of word vectors; the last section of the analogies of a file is ``total``."""

    path: Path
    n_words: int
    width: int
    similarity: list[WordPairsResult]
    analogies: list[AnalogySection]

    def to_json(self) -> dict[str, Any]:
        """Convert to a JSON object, with the accuracy of each section of analogies."""
        sections = [{**asdict(section), "accuracy": section.accuracy} for section in self.analogies]
        return {**asdict(self), "path": str(self.path), "analogies": sections}


def train(
    corpus: Paths, *, out: str | Path, overrides: str | Sequence[str] = (), overwrite: bool = False
) -> VectorsTrainResult:
    """Train word vectors on a corpus and write them.

    Args:
        corpus: files, folders, globs, named corpora.
        out: the file; its suffix determines the format.
        overrides: ``key=value`` arguments of the tables ``vectors`` and ``corpus``.
        overwrite: whether an existing file is replaced.

    Raises:
        UsageError: an unknown format, an existing file, or word2vec without gensim.
        TokenizerError: too little text.
    """
    path = Path(out)
    check_vectors_output(path, overwrite=overwrite)
    settings = resolve(VectorsTrainSettings, parse_overrides(overrides))
    opened = open_corpus(corpus, settings.corpus)
    n_bytes = sum(source.n_bytes for source in opened.sources) or None
    vectors, text_words = train_vectors(opened, settings.vectors, n_bytes=n_bytes, out=path)
    write_vectors(vectors, path, overwrite=overwrite)
    return VectorsTrainResult(
        path, settings.vectors.method, len(vectors), vectors.width, text_words, vectors.words[:_N_EXAMPLES]
    )


def evaluate(
    path: str | Path,
    *,
    pairs: Paths = (),
    questions: Paths = (),
    restrict_vocab: int = 300_000,
    on_bad_bytes: str = "error",
) -> VectorsEvalResult:
    """Evaluate word vectors on word similarity and analogies.

    Args:
        path: the vectors.
        pairs: files of word pairs with scores, such as WordSim-353 and SimLex-999.
        questions: files of analogies, such as Google's questions-words.txt.
        restrict_vocab: use only this many of the first words for analogies.
        on_bad_bytes: what is done about words that are not UTF-8: "error", "replace" or "skip".

    Raises:
        UsageError: no evaluation files, or an unknown value of ``on_bad_bytes``.
        TokenizerError: a file that cannot be read.
    """
    pairs, questions = as_list(pairs), as_list(questions)
    if not pairs and not questions:
        raise UsageError(
            "no evaluation data", fix="Specify files: --similarity wordsim353.tsv --analogies questions-words.txt"
        )
    chosen = next((value for value in _ON_BAD_BYTES if value == on_bad_bytes), None)
    if chosen is None:
        raise UsageError("unknown value", where="--on-bad-bytes", found=on_bad_bytes, expected=", ".join(_ON_BAD_BYTES))
    vectors = read_vectors(path, on_bad_bytes=chosen)
    return VectorsEvalResult(
        Path(path),
        len(vectors),
        vectors.width,
        [evaluate_word_pairs(vectors, Path(file)) for file in pairs],
        [
            section
            for file in questions
            for section in evaluate_word_analogies(vectors, Path(file), restrict_vocab=restrict_vocab)
        ],
    )
