"""The hash of our own source, which every artefact carries."""

import hashlib
from functools import cache
from pathlib import Path

# Rooms whose code decides what the weights become.
_ROOMS = ("corpus", "tokenizer", "store", "model", "optim", "parallel", "train", "finetuning")
_PACKAGE = Path(__file__).parents[1]


@cache
def code_hash(root: Path = _PACKAGE) -> str:
    """Return the SHA-256 over the source files, below the package's folder, that decide what a run computes."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
