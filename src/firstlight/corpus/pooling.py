"""Make one source of all files of a corpus, whichever names stand for them: the same documents in the same order.

``novels/``, ``novels/*.txt`` and each file by itself are the same corpus, and so are split, tokenized and trained on
alike. Sources that are not files (named corpora, data sets of the hub, standard input) stay sources of their own.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from firstlight import progress
from firstlight.corpus.raw_source import RawSource
from firstlight.errors import UsageError
from firstlight.files.folders import sort_files

_MAX_NAMED = 3

# Hard links of one file agree in all of these; some file systems give several files one inode.
_Identity = tuple[int, int, int, int]


def pool_sources(sources: Sequence[RawSource]) -> list[RawSource]:
    """Return one source of the files of all sources, and the other sources in the order of their names.

    A file that several names stand for, or that has several names in a folder (hard links), is read once; a notice
    says so.
    """
    others: dict[str, RawSource] = {}
    repeated = []
    for source in sources:
        if source.files:
            continue
        if source.name in others:
            repeated.append(source.name)
        others.setdefault(source.name, source)
    of_files = [source for source in sources if source.files]
    files, again = _unique_files(of_files)
    repeated += again
    if repeated:
        n = len(repeated)
        what = "1 file has several names, and counts" if n == 1 else f"{n:,} files have several names, and count"
        progress.notice(f"{what} once: {list_names(repeated)}")
    pooled = [others[name] for name in sorted(others)]
    if files:
        reopen = of_files[0].of_files
        assert reopen is not None
        skipped = sum((Counter(source.skipped) for source in of_files), Counter[str]())
        name = list_names(list(dict.fromkeys(source.name for source in of_files)))
        pooled.insert(0, reopen(name, tuple(sort_files(files)), skipped))
    return pooled


def check_disjoint(sources: Sequence[RawSource], *, problem: str, where: str, fix: str) -> None:
    """Check that no file is in two sources.

    Args:
        sources: that must not share files.
        problem: for the error, after the name of the setting.
        where: for the error.
        fix: for the error.

    Raises:
        UsageError: one is, by whatever name; names both.
    """
    first: dict[_Identity, tuple[RawSource, Path]] = {}
    names: set[str] = set()
    for source in sources:
        if not source.files:
            if source.name in names:
                raise UsageError(problem, where=where, found=source.name, fix=fix)
            names.add(source.name)
        for file in source.files:
            before, known = first.setdefault(identify(file), (source, file))
            if before is not source:
                raise UsageError(
                    problem,
                    where=where,
                    found=f"{known} (of {before.name}) and {file} (of {source.name})",
                    fix=fix,
                )


def list_names(names: Sequence[str]) -> str:
    """Name the first few, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _unique_files(sources: Sequence[RawSource]) -> tuple[list[Path], list[str]]:
    """Return the files of sources, each once, and what each further name of one is."""
    first: dict[_Identity, tuple[Path, str]] = {}
    repeated: list[str] = []
    for source in sources:
        for file in source.files:
            known = first.setdefault(identify(file), (file, source.name))
            if known[0] is not file:
                names = f"{known[1]}, {source.name}" if known[1] != source.name else f"also {known[0]}"
                repeated.append(f"{file} ({names})")
    return [file for file, _ in first.values()], repeated


def identify(file: Path) -> _Identity:
    """Return what is the same for all names of one file."""
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
