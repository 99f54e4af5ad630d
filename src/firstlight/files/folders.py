"""List the files below a folder; symbolic links that lead out of it are not followed unless it is asked for.

A link to something inside is followed once: a file or folder is listed under one name, which ends every loop.
"""

import fnmatch
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.files.run_layout import MARK

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
        runs: run directories below the folder, which are left out.
    """

    files: list[Path] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)

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
        if self.broken:
            found.append(_links(self.broken, "nowhere"))
        if labelled and self.again:
            found.append(_links(self.again, "to what has another name in the folder and {} left out"))
        if kept := [path for path in self.files if _is_link_kept_as_text(path)]:
            n = "1 file holds" if len(kept) == 1 else f"{len(kept):,} files hold"
            found.append(f"{n} only a path, as links do that a copy did not keep; it was not followed: {_name(kept)}")
        return found


def list_folder(folder: Path, *, follow_symlinks: bool = False, hidden: bool = True) -> Listing:
    """List the regular files below a folder.

    Args:
        folder: it may be a link itself.
        follow_symlinks: follow links that lead out of it.
        hidden: include files and folders whose name starts with a dot.
    """
    return _Walk(os.path.realpath(folder), follow_symlinks, hidden).run(str(folder))


def list_glob(pattern: str, *, follow_symlinks: bool = False) -> Listing:
    """List the regular files that match a pattern; ``**`` stands for any folders. Links may not leave its fixed part.

    Names that start with a dot match only a pattern that starts with one.
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
        elif not (follow_symlinks or _is_inside(target, root)):
            found.outside.append(Path(match))
        elif rest and os.path.isdir(target):  # noqa: PTH112
            hidden = any(part.startswith(".") for part in rest)
            below = _Walk(root, follow_symlinks, hidden, seen).run(match)
            found.files += [path for path in below.files if _matches(path.relative_to(match).parts, rest)]
            found.outside += below.outside
            found.broken += below.broken
            found.again += below.again
            found.unreadable += below.unreadable
            found.runs += below.runs
        elif not rest and os.path.isfile(target):  # noqa: PTH113
            (found.again if target in seen else found.files).append(Path(match))
            seen.add(target)
    found.files.sort()
    return found


class _Walk:
    """One walk; ``root`` is the real path that links may not leave, ``seen`` the real paths that are listed."""

    def __init__(self, root: str, follow_symlinks: bool, hidden: bool, seen: set[str] | None = None) -> None:
        self._root, self._follow, self._hidden = root, follow_symlinks, hidden
        self._seen: set[str] = set() if seen is None else seen
        self._links: list[str] = []
        self._found = Listing()

    def run(self, folder: str) -> Listing:
        self._list(folder, os.path.realpath(folder))
        # Links come last, so that a file is listed under its own name.
        while self._links:
            self._follow_link(self._links.pop(0))
        self._found.files.sort()
        self._found.outside.sort()
        self._found.broken.sort()
        self._found.again.sort()
        self._found.unreadable.sort()
        self._found.runs.sort()
        return self._found

    def _list(self, folder: str, real: str) -> None:
        pending = [(folder, real)]
        while pending:
            folder, real = pending.pop()
            if real in self._seen:
                continue
            self._seen.add(real)
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except FileNotFoundError:  # removed since
                continue
            except OSError:
                self._found.unreadable.append(Path(folder))
                continue
            if real != self._root and any(entry.name == MARK for entry in entries):
                self._found.runs.append(Path(folder))
                continue
            for entry in entries:
                below = f"{real.rstrip(os.sep)}{os.sep}{entry.name}"
                if entry.name.startswith(".") and not self._hidden:
                    continue
                if entry.is_symlink():
                    self._links.append(entry.path)
                elif entry.is_dir():
                    pending.append((entry.path, below))
                elif entry.is_file():
                    self._add(entry.path, below)

    def _follow_link(self, path: str) -> None:
        target = os.path.realpath(path)
        is_folder = os.path.isdir(target)  # noqa: PTH112
        if not (is_folder or os.path.isfile(target)):  # noqa: PTH113
            if not os.path.exists(target):  # noqa: PTH110
                self._found.broken.append(Path(path))
            return
        if not (self._follow or _is_inside(target, self._root)):
            self._found.outside.append(Path(path))
        elif target in self._seen:
            if not (is_folder and _is_inside(os.path.realpath(os.path.dirname(path)), target)):  # noqa: PTH120
                self._found.again.append(Path(path))
        elif is_folder:
            self._list(path, target)
        else:
            self._add(path, target)

    def _add(self, path: str, real: str) -> None:
        if real not in self._seen:
            self._seen.add(real)
            self._found.files.append(Path(path))


def _links(links: Sequence[Path], leads: str) -> str:
    n = len(links)
    what = "1 symbolic link leads" if n == 1 else f"{n:,} symbolic links lead"
    return f"{what} {leads.format('is' if n == 1 else 'are')}: {_name(links)}"


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


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return len(pattern) == 1 or any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
