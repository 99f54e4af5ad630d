"""Documents in: readers, named corpora, ids, images, cleaning; an iterator of Documents and a tally of the dropped."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.corpus.corpus import Corpus, Source, open_corpus
from firstlight.corpus.readers import READERS
from firstlight.corpus.settings import CorpusSettings, IdSettings, ImageSettings
from firstlight.corpus.sources import names
from firstlight.corpus.tally import Tally

if TYPE_CHECKING:
    from firstlight.corpus.download import cache_folder, fetch
    from firstlight.corpus.ids import open_ids
    from firstlight.corpus.images import Images, open_images, read_images
    from firstlight.corpus.kinds import Kind, kind_of
    from firstlight.corpus.named import catalogue

__all__ = [
    "READERS",
    "Corpus",
    "CorpusSettings",
    "IdSettings",
    "ImageSettings",
    "Images",
    "Kind",
    "Source",
    "Tally",
    "cache_folder",
    "catalogue",
    "fetch",
    "kind_of",
    "names",
    "open_corpus",
    "open_ids",
    "open_images",
    "read_images",
]

# Loaded when first asked for: most runs read files of text.
_LATER = {
    "Images": "images", "Kind": "kinds", "cache_folder": "download", "catalogue": "named", "fetch": "download",
    "kind_of": "kinds", "open_ids": "ids", "open_images": "images", "read_images": "images",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
