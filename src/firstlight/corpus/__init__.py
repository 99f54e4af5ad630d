"""Documents in: readers, named corpora, ids, images, cleaning; an iterator of Documents and a tally of the dropped."""

from firstlight.corpus.artifacts import check_not_artifact
from firstlight.corpus.corpus import Corpus, Source, digests_of, open_corpus
from firstlight.corpus.detect_kind import Kind, infer_kind
from firstlight.corpus.download import fetch
from firstlight.corpus.ids import open_ids
from firstlight.corpus.images import Images, open_images, read_images, read_upper_part
from firstlight.corpus.language import detect_languages
from firstlight.corpus.named import load_catalogue
from firstlight.corpus.pooling import check_disjoint, list_names
from firstlight.corpus.readers import READERS, Reader
from firstlight.corpus.settings import CorpusSettings, IdSettings, ImageSettings, LimitSettings, TrainingCorpusSettings
from firstlight.corpus.sources import are_arrays, corpus_names, same_files, unused_by_readers
from firstlight.corpus.tally import Tally

__all__ = [
    "READERS",
    "Corpus",
    "CorpusSettings",
    "IdSettings",
    "ImageSettings",
    "Images",
    "Kind",
    "LimitSettings",
    "Reader",
    "Source",
    "Tally",
    "TrainingCorpusSettings",
    "are_arrays",
    "check_disjoint",
    "check_not_artifact",
    "corpus_names",
    "detect_languages",
    "digests_of",
    "fetch",
    "infer_kind",
    "list_names",
    "load_catalogue",
    "open_corpus",
    "open_ids",
    "open_images",
    "read_images",
    "read_upper_part",
    "same_files",
    "unused_by_readers",
]
