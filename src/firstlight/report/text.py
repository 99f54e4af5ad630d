"""Any value of a file as short printable text, and long lists as a few of their items."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NO_CHARACTER = re.compile(r"[\x80-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a table: what it is, its figure or words, and a remark."""

    name: str
    value: str
    note: str = ""


def words(value: object, most: int = 2000) -> str:
    """Return a value of a JSON or TOML file as text, cut to ``most`` characters."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        text = ", ".join(words(item, most) for item in value[:100]) + (", …" if len(value) > 100 else "")
    elif isinstance(value, dict):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    return text if len(text) <= most else f"{text[:most]} …"


def printable(text: str) -> str:
    """Show control characters as their pictures, and what is no character as U+FFFD, so that HTML can hold the text."""
    text = text.replace("\r\n", "\n")
    text = _CONTROL.sub(lambda m: "\u2421" if m[0] == "\x7f" else chr(0x2400 + ord(m[0])), text)
    return _NO_CHARACTER.sub("\ufffd", text)


def thinned(items: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` (2 or more) items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
