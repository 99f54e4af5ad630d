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
from firstlight.files._bounded import Bytes
from firstlight.files._code import code_hash
from firstlight.files._manifest import MANIFEST, sha256, verify_manifest, write_manifest
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
    "sha256",
    "storage_errors",
    "temporary_beside",
    "varint",
    "verify_manifest",
    "write_atomic",
    "write_manifest",
]
