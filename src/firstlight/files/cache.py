"""The folder of what may be computed or fetched again, and files that are known to be intact."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstlight.errors import StorageError
from firstlight.files.atomic import write_atomic

_RECORD = "verified.json"
_MAX_RECORDS = 200


def cache_dir() -> Path:
    """Return where fetched and compiled files are kept: $FIRSTLIGHT_CACHE, else below the user's cache folder."""
    if chosen := os.environ.get("FIRSTLIGHT_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "firstlight"


def is_known_intact(folder: Path, names: Sequence[str]) -> bool:
    """Whether these files of ``folder`` are those that ``remember_intact`` has recorded: same size, times and inode."""
    try:
        return bool(_read_records().get(str(folder.resolve())) == _stamps(folder, names))
    except OSError:
        return False


def remember_intact(folder: Path, names: Sequence[str]) -> None:
    """Record that the contents of these files were verified; a cache that cannot be written is no error."""
    try:
        records = _read_records()
        key = str(folder.resolve())
        records.pop(key, None)  # so that it becomes the newest
        records[key] = _stamps(folder, names)
        newest = dict(list(records.items())[-_MAX_RECORDS:])
        write_atomic(cache_dir() / _RECORD, json.dumps(newest, indent=0, ensure_ascii=False))
    except (OSError, StorageError, RuntimeError, UnicodeError):
        return


def _stamps(folder: Path, names: Sequence[str]) -> dict[str, list[int]]:
    stats = {name: (folder / name).stat() for name in names}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats.items()}


def _read_records() -> dict[str, Any]:
    try:
        records = json.loads((cache_dir() / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return records if isinstance(records, dict) else {}
