"""The names of a record's fields, for messages that advise another one."""

from collections.abc import Iterable, Mapping
from typing import Any

from firstlight.errors import nearest

ROWS_FIX = "Write one record per line, as pandas does with to_json(orient='records', lines=True)."
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


def is_keyed_by_row(value: Mapping[Any, Any]) -> bool:
    """Whether an object has an entry per row, under its number, as pandas writes a column, not one per field."""
    return bool(value) and all(str(key).isdigit() for key in value)


def has_like_entries(value: Mapping[Any, Any]) -> bool:
    """Whether the entries of an object are objects with the same fields, and so may be the records of a file."""
    fields = {tuple(item) if isinstance(item, Mapping) else () for item in value.values()}
    return len(value) > 1 and len(fields) == 1 and () not in fields


def longest_list(record: Mapping[Any, Any]) -> tuple[str, int]:
    """Return the name of the field whose list has most text in texts and objects, and its characters; "" and 0 if none.

    A list is not the text of a record, but may be where its text is: the messages of a chat, the paragraphs of a page.
    """
    sizes = {str(key): _text_size(value) for key, value in record.items() if isinstance(value, list | tuple)}
    return max(sizes.items(), key=lambda item: item[1], default=("", 0))


def _text_size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0
    return sum(map(_text_size, value))


def nearest_field(name: str, names: Iterable[str]) -> str | None:
    """Return the field whose name, or its last part, is most similar to a name; None if none is."""
    known = list(names)
    last = {full.rpartition(".")[2]: full for full in reversed(known)}
    return nearest(name, known) or last.get(nearest(name.rpartition(".")[2], last) or "")


def suggest_field(name: str, texts: Mapping[str, str | None]) -> str | None:
    """Return the field with the nearest name; else that with the longest text; else the first."""
    longest = max(texts, key=lambda key: len(texts[key] or ""), default=None)
    return nearest_field(name, texts) or longest
