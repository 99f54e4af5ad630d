"""The hash of our own source code, which every artifact records."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@cache
def source_hash(packages: Sequence[str], root: Path = _PACKAGE) -> str:
    """Compute the SHA-256 over the Python files of some packages.

    Args:
        packages: names of packages or modules below ``root``, dotted, as a tuple.
        root: the folder of the package that they belong to.
    """
    digest = hashlib.sha256()
    for name in packages:
        base = root.joinpath(*name.split("."))
        for path in sorted(base.rglob("*.py")) or [base.with_suffix(".py")]:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
