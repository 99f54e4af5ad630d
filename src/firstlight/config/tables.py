"""Nested tables of settings, as a TOML file has them: merge them, flatten them, leave keys out."""

from collections.abc import Collection, Mapping
from typing import Any


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables key by key; later layers win, lists are replaced whole."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping):
                old = merged.get(key)
                merged[key] = merge(old if isinstance(old, Mapping) else {}, value)
            else:
                merged[key] = value
    return merged


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"a.b": value}`` for nested tables."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def without_keys(table: Mapping[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return a table without some dotted keys, and without the tables that have no other keys."""
    kept: dict[str, Any] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in keys:
            continue
        left = without_keys(value, keys, f"{key}.") if isinstance(value, Mapping) else value
        if left or not isinstance(value, Mapping) or not value:
            kept[name] = left
    return kept


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested tables."""
    root: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        table = root
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return root
