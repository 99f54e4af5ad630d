"""Files: atomic writes, checksums, and reading of untrusted files within their real size.

Writing: a file or folder appears whole, by one rename after fsync, or not at all (``atomic``), with a manifest of
checksums (``manifest``). Reading: binary files (``bounded_reader``), compressed files (``compression``), arrays
(``arrays``), tables (``tables``), JSON (``json_file``, ``json_stream``), zip files (``zips``), protocol buffers
(``protobuf``), pickles (``safe_pickle``); what one file may cost is bounded by ``limits``.
What only some commands use is imported from its module.
"""

from firstlight.files.atomic import (
    NO_LOCKS,
    append_line,
    apply_umask,
    atomic_directory,
    atomic_file,
    is_temporary,
    link_or_copy,
    publish_directory,
    remove_stale_files,
    storage_errors,
    temporary_path,
    write_atomic,
)
from firstlight.files.bounded_reader import BoundedReader
from firstlight.files.cache import cache_dir, is_known_intact, remember_intact
from firstlight.files.json_file import finite_json, read_json, read_json_object
from firstlight.files.limits import Limits
from firstlight.files.manifest import (
    MANIFEST,
    changed_files,
    renamed_checkpoint,
    sha256,
    verify_manifest,
    write_manifest,
)
from firstlight.files.output import check_output, is_stream, output_file, output_temporary, publish_file, write_output
from firstlight.files.protobuf import iter_fields, read_varint
from firstlight.files.source_hash import source_hash

__all__ = [
    "MANIFEST",
    "NO_LOCKS",
    "BoundedReader",
    "Limits",
    "append_line",
    "apply_umask",
    "atomic_directory",
    "atomic_file",
    "cache_dir",
    "changed_files",
    "check_output",
    "finite_json",
    "is_known_intact",
    "is_stream",
    "is_temporary",
    "iter_fields",
    "link_or_copy",
    "output_file",
    "output_temporary",
    "publish_directory",
    "publish_file",
    "read_json",
    "read_json_object",
    "read_varint",
    "remember_intact",
    "remove_stale_files",
    "renamed_checkpoint",
    "sha256",
    "source_hash",
    "storage_errors",
    "temporary_path",
    "verify_manifest",
    "write_atomic",
    "write_manifest",
    "write_output",
]
