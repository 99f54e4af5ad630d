"""Settings that name the inputs of a run: stored so that they hold from any folder, and given anew where they moved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from firstlight.config import Settings

S = TypeVar("S", bound=Settings)


def absolute_sources(settings: S, keys: Sequence[str]) -> S:
    """Return settings in which the inputs that are files or folders are absolute paths.

    Args:
        settings: of a run.
        keys: dotted keys of one table and one name, such as ``run.corpus``.
    """
    for key in keys:
        table_name, name = key.split(".")
        table = getattr(settings, table_name)
        value = getattr(table, name)
        found = [_absolute(item) for item in value] if isinstance(value, list) else _absolute(value)
        if found != value:
            settings = settings.model_copy(update={table_name: table.model_copy(update={name: found})})
    return settings


def is_same_source(before: Any, now: Any) -> bool:
    """Return whether two values name the same inputs, perhaps one of them relative to this folder."""
    return _paths(before) == _paths(now)


def is_missing(source: Any) -> bool:
    """Return whether a value names a file or folder that is not there, as after it was moved."""
    return source is not None and any(not path.exists() for path in _paths(source))


def _absolute(name: Any) -> Any:
    """Return the absolute path of a file, a folder or a glob; other names, as of corpora and models, as they are."""
    if not isinstance(name, str) or name in ("", "-"):
        return name
    path = _expand_user(name)
    is_glob = any(c in name for c in "*?[") and ":" not in name
    return str(path.absolute()) if path.exists() or is_glob else name


def _paths(source: Any) -> list[Path]:
    names = source if isinstance(source, list) else [source]
    return [_expand_user(str(name)).absolute() for name in names]


def _expand_user(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # an unknown user
        return Path(name)
