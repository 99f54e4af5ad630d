"""The sources of settings: TOML files, presets in a package, ``key=value`` arguments."""

import codecs
import re
import tomllib
from collections.abc import Iterable
from datetime import date, time
from importlib import resources
from pathlib import Path
from typing import Any

from firstlight.config.objects import trust_references
from firstlight.errors import UnknownName, UsageError, nearest
from firstlight.types import as_list

# Characters that Chinese input methods write for ASCII: U+FF01 to U+FF5E, the ideographic space and full stop, quotes.
_NARROW = {**{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}, 0x3000: " ", 0x3002: "."}
_NARROW |= dict.fromkeys(map(ord, "“”"), '"') | dict.fromkeys(map(ord, "‘’"), "'")
_WIDE = re.compile(f"[{''.join(map(chr, _NARROW))}]")
_KEY = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_WIDE_SPACE = re.compile(r"\u3000+(?=[\w.．]+\s*[=＝])")


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
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")])
        fix = "Check the path." if near is None else f"Did you mean {path.parent / near}?"
        raise UsageError("no such settings file", where=path, fix=fix) from error
    except IsADirectoryError as error:
        raise UsageError("is a folder", where=path, expected="a TOML file") from error
    except PermissionError as error:
        raise UsageError("cannot be read: permission denied", where=path) from error
    except UnicodeDecodeError as error:
        found = f"a bad byte at offset {error.start}"
        raise UsageError("is not UTF-8 text", where=path, found=found, fix="Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        advice = _escape_advice(str(error)) or _wide_advice(str(error), path)
        raise UsageError(f"is not valid TOML: {error}", where=path, fix=advice) from error
    except RecursionError as error:
        raise UsageError("is not valid TOML: nested too deeply", where=path) from error
    except ValueError as error:  # Python's limit of digits
        raise UsageError("is not valid TOML: a number has too many digits", where=path) from error


def _escape_advice(problem: str) -> str | None:
    """Return what to do about a backslash that TOML takes for the start of an escape."""
    if not problem.startswith(("Unescaped", "Invalid hex value", "Escaped character is not")):
        return None
    return "In double quotes a backslash starts an escape: write a path in single quotes, as 'C:\\Users\\me'."


def _wide_advice(problem: str, path: Path) -> str | None:
    """Return what to do about a full-width character in the line that an error is about."""
    line = re.search(r"at line (\d+)", problem)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    wide = _WIDE.search(lines[int(line[1]) - 1]) if line and 0 < int(line[1]) <= len(lines) else None
    return None if wide is None else f"Write {narrow(wide[0])!r} for the full-width {wide[0]!r}."


def parse_overrides(arguments: str | Iterable[str]) -> dict[str, Any]:
    """Parse ``a.b=value`` arguments into a nested table; a value that is not TOML is a string.

    The user wrote them, so code that they name (``package.module:Name``) may be imported.

    Raises:
        UsageError: an argument has no ``=``, or one key is both a value and a table.
    """
    table: dict[str, Any] = {}
    for argument in (setting for given in as_list(arguments) for setting in narrow_settings(given)):
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


def narrow_settings(argument: str) -> list[str]:
    """Return the ``key=value`` settings of an argument with full-width characters, as Chinese input methods write them.

    ``＝``, digits, letters and punctuation become ASCII where the whole value then is; one in quotes is kept, and one
    of marks alone, such as the comma of ``data.delimiter=，``. An ideographic space, at which shells do not split,
    separates settings. Other arguments are returned as they are.
    """
    if not _WIDE.search(argument):
        return [argument]
    found = []
    for part in _WIDE_SPACE.split(argument):
        key, sign, value = re.match(r"([^=＝]*)([=＝]?)(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
        key, narrowed = narrow(key).strip(), narrow(value).strip()
        if not sign or not _KEY.fullmatch(key):
            return [argument]
        is_word = any(map(str.isalnum, narrowed))
        value = narrowed if narrowed.isascii() and is_word and not value.startswith(("'", '"')) else value
        found.append(f"{key}={value}")
    return found


def narrow(text: str) -> str:
    """Replace full-width characters and typographic quotes with ASCII."""
    return text.translate(_NARROW)


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


def _size(preset_name: str) -> float:
    """Read the number of parameters in the name of a preset, in millions; 0 if it has none."""
    found = re.search(r"-([\d.]+)([mb])$", preset_name)
    return 0 if found is None else float(found[1]) * (1000 if found[2] == "b" else 1)


def preset(package: str, name: str) -> dict[str, Any]:
    """Read the preset ``name`` from a package's TOML files.

    Raises:
        UnknownName: there is no preset of that name.
    """
    known = preset_names(package)
    if name not in known:
        packages, _, command = package.rpartition(".")
        others = sorted(p.name for p in resources.files(packages).iterdir() if p.is_dir()) if packages else []
        other = next((c for c in others if c != command and name in preset_names(f"{packages}.{c}")), None)
        if other is not None:
            raise UsageError(
                f"{name!r} is a preset of the command {other}, not of {command}", expected=f"one of {', '.join(known)}"
            )
        raise UnknownName("preset", name, sorted(known, key=_size))
    return tomllib.loads((resources.files(package) / f"{name}.toml").read_text(encoding="utf-8"))
