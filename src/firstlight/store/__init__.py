"""Ids on disk; mixing of sources; batches as a pure function of the position."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.store.batches import Batches, Windows, document_starts
from firstlight.store.megatron import open_ids, read_index, write_index
from firstlight.store.permute import keys, permute
from firstlight.store.prepare import SourceLike, prepare
from firstlight.store.settings import DataSettings
from firstlight.store.store import Split, TokenStore, summary, unigram, verify

if TYPE_CHECKING:
    from firstlight.store.elsewhere import collect, files_of
    from firstlight.store.foreign import adopt

__all__ = [
    "Batches",
    "DataSettings",
    "SourceLike",
    "Split",
    "TokenStore",
    "Windows",
    "adopt",
    "collect",
    "document_starts",
    "files_of",
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


# Stores that other programs wrote are rare: loaded when one is met.
_LAZY = {"adopt": "foreign", "collect": "elsewhere", "files_of": "elsewhere"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
