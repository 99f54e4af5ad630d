"""Decide what is skipped inside a folder that was named: what is there for programs rather than as data.

Hidden files, what a ``.gitignore`` inside the folder names (gitignore(5), read by ``pathspec``), run directories,
virtual environments, installed packages and caches, models and token stores, and files of the operating system.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.files.run_layout import MARK

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

HIDDEN = "hidden"
IGNORED = "named by .gitignore"
RUNS = "in run directories"
ENVIRONMENTS = "in virtual environments"
PACKAGES = "in node_modules, __pycache__ and the like"
MODELS = "in token stores, tokenizers and models"
SYSTEM = "of the operating system"
NOT_REGULAR = "devices, pipes and sockets"

GITIGNORE = ".gitignore"
_MAX_GITIGNORE_BYTES = 1 << 20
_MAX_COUNTED = 100_000  # files in one skipped folder

_PACKAGE_FOLDERS = frozenset({"node_modules", "bower_components", "__pycache__", "__pypackages__"})
_SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin"})
_STORE = frozenset({"manifest.json", "train.idx", "train.bin"})
_WEIGHTS = (".safetensors", "pytorch_model.bin", ".safetensors.index.json", ".gguf")


def skipped_by_name(name: str) -> str | None:
    """Return why a file or folder of this name is skipped, or None."""
    if name.startswith("."):
        return HIDDEN
    if name in _PACKAGE_FOLDERS:
        return PACKAGES
    return SYSTEM if name.lower() in _SYSTEM_NAMES else None


def skipped_by_content(names: Collection[str]) -> str | None:
    """Return why a folder that holds files and folders of these names is skipped, or None."""
    if MARK in names:
        return RUNS
    if "pyvenv.cfg" in names or "conda-meta" in names:
        return ENVIRONMENTS
    has_weights = "config.json" in names and any(name.endswith(_WEIGHTS) for name in names)
    if has_weights or "tokenizer.json" in names or set(names) >= _STORE:
        return MODELS
    return None


@dataclass(frozen=True, slots=True)
class Gitignore:
    """The patterns of one ``.gitignore``, which hold for the folder that it is in."""

    folder: str
    spec: "GitIgnoreSpec"

    @classmethod
    def read(cls, folder: str) -> "Gitignore":
        """Read the file; a line that is not a pattern is passed over, as git does.

        Raises:
            OSError: it cannot be read.
        """
        from pathspec import GitIgnoreSpec

        with (Path(folder) / GITIGNORE).open("rb") as file:
            text = file.read(_MAX_GITIGNORE_BYTES).decode("utf-8-sig", "surrogateescape")
        lines = [line.rstrip("\r") for line in text.split("\n")]
        try:
            return cls(folder, GitIgnoreSpec.from_lines(lines))
        except ValueError:
            return cls(folder, GitIgnoreSpec.from_lines([line for line in lines if _is_pattern(line)]))

    def check(self, path: str, *, is_folder: bool) -> bool | None:
        """Return whether a path in the folder is ignored; None where no pattern is about it."""
        inside = path[len(self.folder) :].replace(os.sep, "/").lstrip("/")
        return self.spec.check_file(f"{inside}/" if is_folder else inside).include


def is_ignored(chain: Sequence[Gitignore], path: str, *, is_folder: bool) -> bool:
    """Return whether a path is ignored by the files of the folders above it, the outermost first; the innermost wins.

    What is in an ignored folder is ignored too, so that the caller need not look into it.
    """
    for gitignore in reversed(chain):
        found = gitignore.check(path, is_folder=is_folder)
        if found is not None:
            return found
    return False


def count_files(folder: str) -> int:
    """Count the files below a folder, links not followed, up to a limit: it may be large, and none is read."""
    pending, n = [folder], 0
    while pending and n < _MAX_COUNTED:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        n += 1
        except OSError:
            continue
    return min(n, _MAX_COUNTED)


def _is_pattern(line: str) -> bool:
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
