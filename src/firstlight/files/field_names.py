"""The names of a record's fields, for messages that advise another one."""

from collections.abc import Iterable, Mapping
from typing import Any

from firstlight.errors import nearest

_MAX_DEPTH = 3  # of objects in objects whose fields are suggested


def nested_texts(record: Mapping[Any, Any], prefix: str = "") -> dict[str, str | None]:
    """Return the fields of a record, with those of objects within it as ``a.b``, and the text of each that has one."""
    found: dict[str, str | None] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and name.count(".") < _MAX_DEPTH:
            found |= nested_texts(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, str) else None
    return found


def nearest_field(name: str, names: Iterable[str]) -> str | None:
    """Return the field whose name, or its last part, is most similar to a name; None if none is."""
    known = list(names)
    last = {full.rpartition(".")[2]: full for full in reversed(known)}
    return nearest(name, known) or last.get(nearest(name.rpartition(".")[2], last) or "")


def suggest_field(name: str, texts: Mapping[str, str | None]) -> str | None:
    """Return the field with the nearest name; else that with the longest text; else the first."""
    longest = max(texts, key=lambda key: len(texts[key] or ""), default=None)
    return nearest_field(name, texts) or longest
