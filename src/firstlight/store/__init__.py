"""Ids on disk; mixing of sources; batches as a pure function of the position."""

from firstlight.store.adopt_megatron import adopt
from firstlight.store.batches import Batches, Windows, document_starts
from firstlight.store.megatron import open_ids, read_index, write_index
from firstlight.store.permute import keys, permute
from firstlight.store.prepare import SourceLike, prepare
from firstlight.store.settings import DataSettings
from firstlight.store.store import Split, TokenStore, summary, unigram, verify

__all__ = [
    "Batches",
    "DataSettings",
    "SourceLike",
    "Split",
    "TokenStore",
    "Windows",
    "adopt",
    "document_starts",
    "keys",
    "open_ids",
    "permute",
    "prepare",
    "read_index",
    "summary",
    "unigram",
    "verify",
    "write_index",
]
