"""Settings that have no effect with the values of the others: find them, and leave them out of tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from firstlight.config.settings import Settings
from firstlight.config.tables import flatten, without_keys


def find_unused(settings: Settings, prefix: str = "") -> dict[str, str]:
    """Return the dotted keys of all settings and tables without an effect, and why; see ``Settings.unused_settings``.

    What a table says about the keys of the tables within it takes precedence over what these say themselves.
    """
    found = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            found.update(find_unused(value, f"{prefix}{name}."))
    return {**found, **{f"{prefix}{key}": reason for key, reason in settings.unused_settings().items()}}


def given_unused(table: Mapping[str, Any], unused: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Return the keys of a table that have no effect: ``{key: (value, why)}``.

    One that is ``auto`` asks for nothing.
    """
    found = {}
    for key, value in flatten(table).items():
        reason = next((unused[part] for part in _prefixes(key) if part in unused), None)
        if reason is not None and value not in ("auto", None):
            found[key] = (value, reason)
    return found


def used_settings(settings: Settings) -> dict[str, Any]:
    """Return settings as a table of JSON types, without those that have no effect."""
    return without_keys(settings.model_dump(mode="json"), find_unused(settings))


def _prefixes(key: str) -> Iterator[str]:
    """Yield the keys of the tables that a dotted key is in, the outermost first, and the key itself."""
    parts = key.split(".")
    for n in range(1, len(parts) + 1):
        yield ".".join(parts[:n])
