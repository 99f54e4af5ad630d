"""Ids on disk; mixing of sources; batches as a pure function of the position."""

from typing import TYPE_CHECKING, Any

from firstlight.store.batches import Batches, Windows, document_starts
from firstlight.store.megatron import open_ids, read_index, write_index
from firstlight.store.permute import keys, permute
from firstlight.store.prepare import SourceLike, prepare
from firstlight.store.settings import DataSettings
from firstlight.store.store import Split, TokenStore, summary, unigram, verify

if TYPE_CHECKING:
    from firstlight.store.foreign import adopt

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


def __getattr__(name: str) -> Any:
    # Stores that other programs wrote are rare: loaded when one is met.
    if name != "adopt":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from firstlight.store.foreign import adopt

    return adopt
