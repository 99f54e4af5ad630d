"""Write settings as TOML: tables in the order of their classes, without keys that are None or have no effect."""

import json
from collections.abc import Mapping
from typing import Any

from firstlight.config.settings import Settings
from firstlight.config.unused import used_settings


def dump_toml(settings: Settings | Mapping[str, Any], *, header: str = "") -> str:
    """Return TOML that reads back as the same settings; ``header`` becomes comment lines."""
    table = used_settings(settings) if isinstance(settings, Settings) else dict(settings)
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    _table(table, [], lines)
    return "\n".join(lines).strip() + "\n"


def format_override(key: str, value: Any) -> str:
    """Return a setting as an argument of the command line, ``a.b=value``, which reads back as the same."""
    return f"{key}={_value(value)}"


def _table(table: Mapping[str, Any], path: list[str], lines: list[str]) -> None:
    plain = {k: v for k, v in table.items() if not isinstance(v, Mapping) and v is not None}
    if path and plain:
        lines.extend(["", f"[{'.'.join(_key(p) for p in path)}]"])
    lines.extend(f"{_key(k)} = {_value(v)}" for k, v in plain.items())
    for key, value in table.items():
        if isinstance(value, Mapping):
            _table(value, [*path, key], lines)


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isalnum() and bare.isascii() else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    raise TypeError(f"{type(value).__name__} cannot be written as TOML")


def _string(text: str) -> str:
    # TOML has JSON's escapes, but DEL must be escaped too, and there are no surrogate pairs.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
