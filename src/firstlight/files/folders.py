"""List the files below a folder: the one walk that every command uses.

What a user names is taken, whatever it is. Inside a folder, what is there for programs rather than as data is skipped
and counted (``skipping``). Symbolic links that lead out of the folder are not followed unless it is asked for; a link
to something inside is followed once: a file or folder is listed under one name, which ends every loop. The root of the
file system and the file systems of the kernel are never walked, and what is not a regular file is never opened.

A pattern without ``**`` stands for the files that it matches: they are named, and none is skipped. What ``**`` passes
through is walked, and skipped, as in a folder.
"""

import fnmatch
import glob
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.files.skipping import (
    GITIGNORE,
    IGNORED,
    NOT_REGULAR,
    Gitignore,
    count_files,
    is_ignored,
    skipped_by_content,
    skipped_by_name,
)
from firstlight.files.walkable import check_walkable, is_inside, is_of_kernel

_MAX_NAMED = 3
_MAX_LINK_BYTES = 255
_MAGIC = "*?["
_THEM = "what they lead to"


@dataclass(slots=True)
class Listing:
    """What is in a folder, or matches a pattern.

    Attributes:
        files: regular files, sorted by path.
        outside: symbolic links that lead out of the folder and were not followed.
        broken: symbolic links that lead nowhere.
        again: symbolic links to files or folders that are listed under another name; those of loops are not among them.
        unreadable: folders that cannot be listed, such as for want of permission.
        folders: that match a pattern, which stands for files.
        skipped: why files were skipped -> how many.
        skipped_folders: the folders among them.
    """

    files: list[Path] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_folders: list[Path] = field(default_factory=list)

    def skip(self, reason: str, n_files: int = 1) -> None:
        """Count files that are skipped."""
        if n_files:
            self.skipped[reason] = self.skipped.get(reason, 0) + n_files

    def add(self, other: "Listing") -> None:
        """Add what another walk has found."""
        for name in ("files", "outside", "broken", "again", "unreadable", "skipped_folders"):
            getattr(self, name).extend(getattr(other, name))
        for reason, n in other.skipped.items():
            self.skip(reason, n)

    def sort(self) -> "Listing":
        """Sort every list, and return the listing."""
        self.files = sort_files(self.files)
        for name in ("outside", "broken", "again", "unreadable", "skipped_folders"):
            getattr(self, name).sort()
        return self

    def describe_skipped(self, setting: str | None) -> str | None:
        """Say how many files were skipped, and why; None where there are none.

        Args:
            setting: that reads them; None where there is none.
        """
        if not self.skipped:
            return None
        total = sum(self.skipped.values())
        why = ", ".join(
            f"{n:,} {reason}" for reason, n in sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        )
        where = f" ({_name(self.skipped_folders)})" if self.skipped_folders else ""
        advice = f"; {setting} reads them" if setting and set(self.skipped) != {NOT_REGULAR} else ""
        return f"{total:,} file{'s' * (total != 1)} skipped: {why}{where}{advice}"

    def remarks(self, setting: str | None, *, labelled: bool = False) -> list[str]:
        """Say what was left out: clauses with the number of links, and the first few.

        Args:
            setting: that follows links out of the folder; None where there is none.
            labelled: whether folders are labels, so that a file under a second name is not the same row again.
        """
        found = []
        if self.outside:
            clause = _links(self.outside, "out of the folder and {} not followed")
            found.append(f"{clause}. {f'Set {setting}' if setting else 'Copy the folder with cp -rL'} to read {_THEM}.")
        if self.unreadable:
            n = "1 folder" if len(self.unreadable) == 1 else f"{len(self.unreadable):,} folders"
            found.append(f"{n} cannot be listed, and the files in it left out: {_name(self.unreadable)}")
        if self.folders:
            n = "1 folder matches" if len(self.folders) == 1 else f"{len(self.folders):,} folders match"
            found.append(
                f"{n} and {_is(self.folders)} not read: {_name(self.folders)}. Write ** to read what is in it."
            )
        if self.broken:
            found.append(_links(self.broken, "nowhere"))
        if labelled and self.again:
            found.append(_links(self.again, "to what has another name in the folder and {} left out"))
        if kept := [path for path in self.files if _is_link_kept_as_text(path)]:
            n = "1 file holds" if len(kept) == 1 else f"{len(kept):,} files hold"
            found.append(f"{n} only a path, as links do that a copy did not keep; it was not followed: {_name(kept)}")
        return found


def list_folder(folder: Path, *, follow_symlinks: bool = False, skip: bool = True) -> Listing:
    """List the regular files below a folder.

    Args:
        folder: it may be a link itself, hidden, or a run directory.
        follow_symlinks: follow links that lead out of it.
        skip: leave out what is not data; see ``skipping``.

    Raises:
        UsageError: it is the root of the file system, or of the kernel's.
    """
    return _Walk(os.path.realpath(folder), follow_symlinks, skip=skip).run(str(folder)).sort()


def list_glob(pattern: str | Path, *, follow_symlinks: bool = False, skip: bool = True) -> Listing:
    """List the regular files that match a pattern.

    ``**`` stands for any folders. Links may not leave the fixed part of the pattern. Names that start with a dot match
    only a part that starts with one.

    Args:
        pattern: with ``*``, ``?`` or ``[``.
        follow_symlinks: follow links that lead out of its fixed part.
        skip: leave out what is not data in the folders that are walked.

    Raises:
        UsageError: the root of the file system, or of the kernel's, would be walked.
    """
    parts = Path(pattern).parts
    n_fixed = next((i for i, part in enumerate(parts) if any(c in part for c in _MAGIC)), len(parts))
    root = os.path.realpath(os.path.join(*parts[:n_fixed]) if n_fixed else ".")  # noqa: PTH118
    n_plain = parts.index("**") if "**" in parts else len(parts)
    found, rest = Listing(), parts[n_plain:]
    seen: set[str] = set()
    plain = os.path.join(*parts[:n_plain]) if n_plain else ""  # noqa: PTH118
    matches = glob.glob(plain) if plain else ["."]  # noqa: PTH207 - Path.glob does not accept absolute patterns
    for match in sorted(matches, key=lambda path: (os.path.islink(path), path)):  # noqa: PTH114
        target = os.path.realpath(match)
        if not os.path.exists(target):  # noqa: PTH110
            found.broken.append(Path(match))
        elif not (follow_symlinks or is_inside(target, root)):
            found.outside.append(Path(match))
        elif rest and os.path.isdir(target):  # noqa: PTH112
            hidden = any(part.startswith(".") for part in rest)
            below = _Walk(root, follow_symlinks, skip=skip, hidden=hidden, seen=seen).run(match, shown=pattern)
            below.files = [path for path in below.files if _matches(path.relative_to(match).parts, rest)]
            found.add(below)
        elif not rest and os.path.isfile(target):  # noqa: PTH113
            (found.again if target in seen else found.files).append(Path(match))
            seen.add(target)
        elif not rest and os.path.isdir(target):  # noqa: PTH112
            found.folders.append(Path(match))
    return found.sort()


def sort_files(files: Iterable[Path]) -> list[Path]:
    """Sort files by their real paths, in an order that is the same however they are named, and on every system.

    Names compare by their characters (NFC, as macOS decomposes them), not by a locale.
    """
    real_folders: dict[Path, str] = {}

    def key(path: Path) -> tuple[tuple[str, ...], str]:
        if path.is_symlink():
            real = os.path.realpath(path)
        else:
            folder = path.parent
            if folder not in real_folders:
                real_folders[folder] = os.path.realpath(folder)
            real = os.path.join(real_folders[folder], path.name)  # noqa: PTH118
        return tuple(unicodedata.normalize("NFC", part) for part in Path(real).parts), str(path)

    return sorted(files, key=key)


class _Walk:
    """One walk; ``root`` is the real path that links may not leave, ``seen`` the real paths that are listed."""

    def __init__(
        self, root: str, follow_symlinks: bool, *, skip: bool, hidden: bool = False, seen: set[str] | None = None
    ) -> None:
        self._root, self._follow, self._skip, self._hidden = root, follow_symlinks, skip, hidden
        self._seen: set[str] = set() if seen is None else seen
        self._links: list[tuple[str, tuple[Gitignore, ...]]] = []
        self._found = Listing()

    def run(self, folder: str, *, shown: object = None) -> Listing:
        check_walkable(folder, shown=shown or folder)
        self._list(folder, os.path.realpath(folder), (), named=True)
        # Links come last, so that a file is listed under its own name.
        while self._links:
            self._follow_link(*self._links.pop(0))
        return self._found

    def _list(self, folder: str, real: str, chain: tuple[Gitignore, ...], *, named: bool = False) -> None:
        pending = [(folder, real, chain)]
        while pending:
            folder, real, chain = pending.pop()
            if real in self._seen:
                continue
            self._seen.add(real)
            if not named and (is_of_kernel(real)):
                self._found.skip(NOT_REGULAR)
                continue
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except FileNotFoundError:  # removed since
                continue
            except OSError:
                self._found.unreadable.append(Path(folder))
                continue
            if self._skip:
                why = None if named else skipped_by_content({entry.name for entry in entries})
                if why:
                    self._skip_folder(why, folder)
                    continue
                chain = self._extend(chain, folder, entries)
            named = False
            for entry in entries:
                below = f"{real.rstrip(os.sep)}{os.sep}{entry.name}"
                if self._is_skipped(entry, chain):
                    continue
                if entry.is_symlink():
                    self._links.append((entry.path, chain))
                elif entry.is_dir():
                    pending.append((entry.path, below, chain))
                elif entry.is_file():
                    self._add(entry.path, below)
                else:
                    self._found.skip(NOT_REGULAR)

    def _is_skipped(self, entry: "os.DirEntry[str]", chain: Sequence[Gitignore]) -> bool:
        if not self._skip:
            return False
        is_folder = entry.is_dir(follow_symlinks=False)
        why = None if self._hidden and entry.name.startswith(".") else skipped_by_name(entry.name)
        if why is None and chain and is_ignored(chain, entry.path, is_folder=is_folder):
            why = IGNORED
        if why is None:
            return False
        if is_folder:
            self._skip_folder(why, entry.path)
        else:
            self._found.skip(why)
        return True

    def _skip_folder(self, why: str, folder: str) -> None:
        n = count_files(folder)
        self._found.skip(why, n)
        if n:
            self._found.skipped_folders.append(Path(folder))

    def _extend(
        self, chain: tuple[Gitignore, ...], folder: str, entries: "Sequence[os.DirEntry[str]]"
    ) -> tuple[Gitignore, ...]:
        """Add the patterns of the folder's own file to those of the folders above it."""
        if not any(entry.name == GITIGNORE and entry.is_file(follow_symlinks=False) for entry in entries):
            return chain
        try:
            return (*chain, Gitignore.read(folder))
        except OSError:
            self._found.unreadable.append(Path(folder) / GITIGNORE)
            return chain

    def _follow_link(self, path: str, chain: tuple[Gitignore, ...]) -> None:
        target = os.path.realpath(path)
        is_folder = os.path.isdir(target)  # noqa: PTH112
        if not (is_folder or os.path.isfile(target)):  # noqa: PTH113
            if not os.path.exists(target):  # noqa: PTH110
                self._found.broken.append(Path(path))
            else:
                self._found.skip(NOT_REGULAR)
            return
        if not (self._follow or is_inside(target, self._root)):
            self._found.outside.append(Path(path))
        elif target in self._seen:
            if not (is_folder and is_inside(os.path.realpath(os.path.dirname(path)), target)):  # noqa: PTH120
                self._found.again.append(Path(path))
        elif is_folder:
            self._list(path, target, chain)
        else:
            self._add(path, target)

    def _add(self, path: str, real: str) -> None:
        if real not in self._seen:
            self._seen.add(real)
            self._found.files.append(Path(path))


def _links(links: Sequence[Path], leads: str) -> str:
    n = len(links)
    what = "1 symbolic link leads" if n == 1 else f"{n:,} symbolic links lead"
    return f"{what} {leads.format(_is(links))}: {_name(links)}"


def _is(paths: Sequence[Path]) -> str:
    return "is" if len(paths) == 1 else "are"


def _name(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:_MAX_NAMED])) + (", …" if len(paths) > _MAX_NAMED else "")


def _is_link_kept_as_text(path: Path) -> bool:
    """Whether a file holds a path and nothing else, as git writes a symbolic link where there are none."""
    try:
        if path.stat().st_size > _MAX_LINK_BYTES:
            return False
        target = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if not target or not target.isprintable() or " " in target:
        return False
    return target.startswith(("../", "./", "/")) or (path.parent / target).is_dir()


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return len(pattern) == 1 or any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
