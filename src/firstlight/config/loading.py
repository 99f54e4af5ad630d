"""The sources of settings: TOML files, presets in a package, ``key=value`` arguments."""

import codecs
import tomllib
from collections.abc import Iterable
from datetime import date, time
from importlib import resources
from pathlib import Path
from typing import Any

from firstlight.config.objects import trust_references
from firstlight.errors import UnknownName, UsageError
from firstlight.types import as_list


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: the file is missing, not UTF-8, or not TOML (with line and column).
    """
    try:
        data = path.read_bytes()
        # Some editors write a byte order mark, which TOML does not allow, and Windows shells UTF-16.
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return tomllib.loads(data.decode("utf-16" if is_wide else "utf-8-sig").removeprefix("\ufeff"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError("no such settings file", where=path, fix="Check the path.") from error
    except IsADirectoryError as error:
        raise UsageError("is a folder", where=path, expected="a TOML file") from error
    except PermissionError as error:
        raise UsageError("cannot be read: permission denied", where=path) from error
    except UnicodeDecodeError as error:
        found = f"a bad byte at offset {error.start}"
        raise UsageError("is not UTF-8 text", where=path, found=found, fix="Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"is not valid TOML: {error}", where=path, fix=_escape_advice(str(error))) from error
    except RecursionError as error:
        raise UsageError("is not valid TOML: nested too deeply", where=path) from error
    except ValueError as error:  # Python's limit of digits
        raise UsageError("is not valid TOML: a number has too many digits", where=path) from error


def _escape_advice(problem: str) -> str | None:
    """Return what to do about a backslash that TOML takes for the start of an escape."""
    if not problem.startswith(("Unescaped", "Invalid hex value", "Escaped character is not")):
        return None
    return "In double quotes a backslash starts an escape: write a path in single quotes, as 'C:\\Users\\me'."


def parse_overrides(arguments: str | Iterable[str]) -> dict[str, Any]:
    """Parse ``a.b=value`` arguments into a nested table; a value that is not TOML is a string.

    The user wrote them, so code that they name (``package.module:Name``) may be imported.

    Raises:
        UsageError: an argument has no ``=``, or one key is both a value and a table.
    """
    table: dict[str, Any] = {}
    for argument in as_list(arguments):
        key, equals, text = argument.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UsageError("is not a setting", where=argument, expected="key=value, such as optim.lr=3e-4")
        parent = table
        for part in parts[:-1]:
            parent = parent.setdefault(part, {})
            if not isinstance(parent, dict):
                raise UsageError("sets a key below another value", where=argument)
        parent[parts[-1]] = _value(text.strip())
    trust_references(table)
    return table


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # also a number of thousands of digits
        return text
    # With a line break the text could set another key; no setting is a date. Both are strings.
    return table["value"] if len(table) == 1 and not isinstance(table["value"], date | time) else text


def preset_names(package: str) -> list[str]:
    """Return the names of the TOML files in a package."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files(package).iterdir() if p.name.endswith(".toml"))


def preset(package: str, name: str) -> dict[str, Any]:
    """Read the preset ``name`` from a package's TOML files.

    Raises:
        UnknownName: there is no preset of that name.
    """
    known = preset_names(package)
    if name not in known:
        raise UnknownName("preset", name, known)
    return tomllib.loads((resources.files(package) / f"{name}.toml").read_text(encoding="utf-8"))
