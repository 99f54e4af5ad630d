"""Token stores: ids on disk, mixing of sources, and batches as a pure function of the position."""

from firstlight.store.adopt_megatron import adopt
from firstlight.store.batches import Batches, Windows, document_starts
from firstlight.store.megatron import open_megatron, read_index, write_index
from firstlight.store.permute import mix64, permute, round_keys
from firstlight.store.preparation import discard_preparation, preparation_folder
from firstlight.store.prepare import SourceLike, prepare
from firstlight.store.settings import DataSettings
from firstlight.store.store import Split, TokenStore, store_stats, unigram_counts
from firstlight.store.verification import open_store, remember, verify_store

__all__ = [
    "Batches",
    "DataSettings",
    "SourceLike",
    "Split",
    "TokenStore",
    "Windows",
    "adopt",
    "discard_preparation",
    "document_starts",
    "mix64",
    "open_megatron",
    "open_store",
    "permute",
    "preparation_folder",
    "prepare",
    "read_index",
    "remember",
    "round_keys",
    "store_stats",
    "unigram_counts",
    "verify_store",
    "write_index",
]
