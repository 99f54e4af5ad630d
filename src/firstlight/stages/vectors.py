"""``tokenizer vectors``: train word vectors, and judge them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstlight.config import Settings, parse_overrides, resolve
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import UsageError
from firstlight.vectors import VectorSettings, read, write
from firstlight.vectors.evaluation import Section, Similarity, analogies, similarity
from firstlight.vectors.training import train as train_on
from firstlight.vectors.writing import suffix_of


class VectorsTrainSettings(Settings):
    """Settings of ``tokenizer vectors train``."""

    corpus: CorpusSettings = CorpusSettings()
    vectors: VectorSettings = VectorSettings()


@dataclass(frozen=True, slots=True)
class VectorFacts:
    """What was trained.

    Attributes:
        n_words: words that have a vector.
        width: numbers of each.
        text_words: words of text that were learnt from, of all epochs one.
    """

    path: Path
    method: str
    n_words: int
    width: int
    text_words: int
    commonest: list[str]


@dataclass(frozen=True, slots=True)
class VectorFigures:
    """How good vectors are; ``total`` is the last section of the analogies."""

    path: Path
    n_words: int
    width: int
    similarity: list[Similarity]
    analogies: list[Section]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, with the accuracy of each section of analogies."""
        sections = [{**asdict(section), "accuracy": section.accuracy} for section in self.analogies]
        return {**asdict(self), "path": str(self.path), "analogies": sections}


def train(corpus: Sequence[str], *, out: str | Path, overrides: Sequence[str] = ()) -> VectorFacts:
    """Train word vectors on a corpus and write them.

    Args:
        corpus: files, folders, globs, named corpora.
        out: the file; its suffix says the format.
        overrides: ``key=value`` words of the tables ``vectors`` and ``corpus``.

    Raises:
        UsageError: an unknown format, or word2vec without gensim.
        TokenizerError: too little text.
    """
    path = Path(out)
    suffix_of(path)
    if path.is_dir():
        raise UsageError("is a folder", where=path, expected="a file such as vectors.txt", fix="Choose another --out.")
    settings = resolve(VectorsTrainSettings, parse_overrides(overrides))
    opened = open_corpus(list(corpus), settings.corpus)
    n_bytes = sum(source.n_bytes for source in opened.sources) or None
    made, text_words = train_on(opened, settings.vectors, n_bytes=n_bytes, out=path)
    write(made, path)
    return VectorFacts(path, settings.vectors.method, len(made), made.width, text_words, made.words[:8])


def judge(
    path: str | Path, *, pairs: Sequence[str | Path] = (), questions: Sequence[str | Path] = (), most: int = 300_000
) -> VectorFigures:
    """Judge word vectors on similarity of words and on analogies.

    Args:
        path: the vectors.
        pairs: files of two words and a score a line, such as WordSim-353 and SimLex-999.
        questions: files of analogies, such as Google's questions-words.txt.
        most: the first so many words take part in the analogies.

    Raises:
        UsageError: nothing to judge by.
        TokenizerError: a file that cannot be read.
    """
    if not pairs and not questions:
        raise UsageError(
            "nothing to judge by", fix="Name files: --similarity wordsim353.tsv --analogies questions-words.txt"
        )
    vectors = read(path)
    return VectorFigures(
        Path(path),
        len(vectors),
        vectors.width,
        [similarity(vectors, Path(file)) for file in pairs],
        [section for file in questions for section in analogies(vectors, Path(file), most=most)],
    )
