"""Atomic writes, checksums, locks: every byte that must survive goes through here."""

from firstlight.files.atomic import (
    append_line,
    atomic_directory,
    make_ordinary,
    remove_leftovers,
    replaced,
    storage_errors,
    temporary_beside,
    write_atomic,
)
from firstlight.files.bounded_reader import Bytes
from firstlight.files.manifest import MANIFEST, sha256, verify_manifest, write_manifest
from firstlight.files.protobuf import fields, varint
from firstlight.files.source_hash import code_hash

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
