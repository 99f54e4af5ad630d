"""Atomic writes, checksums, locks: every byte that must survive goes through here."""

from firstlight.files._atomic import (
    append_line,
    atomic_directory,
    make_ordinary,
    remove_leftovers,
    storage_errors,
    temporary_beside,
    write_atomic,
)
from firstlight.files._code import code_hash
from firstlight.files._manifest import MANIFEST, sha256, verify_manifest, write_manifest

__all__ = [
    "MANIFEST",
    "append_line",
    "atomic_directory",
    "code_hash",
    "make_ordinary",
    "remove_leftovers",
    "sha256",
    "storage_errors",
    "temporary_beside",
    "verify_manifest",
    "write_atomic",
    "write_manifest",
]
