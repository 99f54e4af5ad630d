"""Documents in: readers, named corpora, cleaning; an iterator of Documents and a tally of what was dropped."""

from firstlight.corpus.corpus import Corpus, Source, open_corpus
from firstlight.corpus.download import cache_folder, fetch
from firstlight.corpus.named import catalogue
from firstlight.corpus.readers import READERS
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.sources import names
from firstlight.corpus.tally import Tally

__all__ = [
    "READERS",
    "Corpus",
    "CorpusSettings",
    "Source",
    "Tally",
    "cache_folder",
    "catalogue",
    "fetch",
    "names",
    "open_corpus",
]
