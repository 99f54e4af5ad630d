"""Format any JSON or TOML value as short printable text, and thin out long lists."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BIDI_OVERRIDE = re.compile(r"[\u202a-\u202e\u2066-\u2069]")  # reorder what follows, such as a file's suffix
_NON_CHARACTER = re.compile(r"[\x80-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of a table: name, value, and an optional note."""

    name: str
    value: str
    note: str = ""


def to_text(value: object, max_length: int = 2000) -> str:
    """Format a value of a JSON or TOML file as text, truncated to ``max_length`` characters."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        text = ", ".join(to_text(item, max_length) for item in value[:100]) + (", …" if len(value) > 100 else "")
    elif isinstance(value, dict):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    return text if len(text) <= max_length else f"{text[:max_length]} …"


def printable(text: str) -> str:
    r"""Replace control characters with their symbols and non-characters with U+FFFD, which HTML cannot contain.

    Bidirectional overrides are escaped, such as ``\u202e``.
    """
    text = text.replace("\r\n", "\n")
    text = _CONTROL.sub(lambda m: "\u2421" if m[0] == "\x7f" else chr(0x2400 + ord(m[0])), text)
    text = _BIDI_OVERRIDE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)
    return _NON_CHARACTER.sub("\ufffd", text)


def thin(items: Sequence[T], max_items: int) -> list[T]:
    """Return at most ``max_items`` (2 or more) items, evenly spaced, including the first and the last."""
    if len(items) <= max_items:
        return list(items)
    return [items[round(i * (len(items) - 1) / (max_items - 1))] for i in range(max_items)]
