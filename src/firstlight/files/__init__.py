"""Atomic writes, checksums, locks: every byte that must survive goes through here."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.files._atomic import (
    append_line,
    atomic_directory,
    make_ordinary,
    remove_leftovers,
    replaced,
    storage_errors,
    temporary_beside,
    write_atomic,
)
from firstlight.files._code import code_hash
from firstlight.files._manifest import MANIFEST, sha256, verify_manifest, write_manifest

if TYPE_CHECKING:
    from firstlight.files._bounded import Bytes
    from firstlight.files._messages import fields, varint

__all__ = [
    "MANIFEST",
    "Bytes",
    "append_line",
    "atomic_directory",
    "code_hash",
    "fields",
    "make_ordinary",
    "remove_leftovers",
    "replaced",
    "sha256",
    "storage_errors",
    "temporary_beside",
    "varint",
    "verify_manifest",
    "write_atomic",
    "write_manifest",
]

# Foreign files are rare: what reads them is loaded when one is met.
_LAZY = {"Bytes": "_bounded", "fields": "_messages", "varint": "_messages"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
