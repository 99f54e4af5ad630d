"""Documents in: readers, named corpora, cleaning; an iterator of Documents and a tally of what was dropped."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.corpus.corpus import Corpus, Source, open_corpus
from firstlight.corpus.readers import READERS
from firstlight.corpus.settings import CorpusSettings
from firstlight.corpus.sources import names
from firstlight.corpus.tally import Tally

if TYPE_CHECKING:
    from firstlight.corpus.download import cache_folder, fetch
    from firstlight.corpus.named import catalogue

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

# Fetching is loaded when it is first asked for: most runs read files.
_LATER = {"cache_folder": "download", "catalogue": "named", "fetch": "download"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
