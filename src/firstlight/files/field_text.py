"""The text of a field of a record, whatever type JSON, Parquet or a data frame gave it: one decision for all readers.

- Text is itself; null, NaN and NaT are no text.
- The parts of a message, as the APIs of OpenAI and Anthropic write them, are joined with line breaks; a part that is
  not text (an image, a sound, a call of a tool) is refused.
- Bytes are UTF-8, as Parquet files of older programs hold strings.
- A number is its digits as the file has them, a boolean is as JSON writes it, a date is ISO 8601, and the texts of a
  list are joined with line breaks; ``only_text`` refuses all of these.
- Objects, lists within lists, and infinity are refused.
"""

import datetime
import decimal
import math
from collections.abc import Callable
from typing import Any

from firstlight.errors import CorpusError, Failure
from firstlight.files.field_names import ROWS_FIX, is_keyed_by_row

_TEXT_PARTS = ("text", "input_text", "output_text")
_MAX_SHOWN = 60


class WrittenFloat(float):
    """A number of a JSON text that is not whole, with the characters it was written with."""

    text: str

    def __new__(cls, text: str) -> "WrittenFloat":
        """Parse the characters."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def is_missing(value: Any) -> bool:
    """Whether a value stands for a missing one: null, or NaN as data frames write it."""
    if value is None:
        return True
    if isinstance(value, float | decimal.Decimal):
        return math.isnan(value)
    if not _is_of_numpy(value):
        return False
    import numpy as np  # slow to load, and loaded already where there is such a value

    if isinstance(value, np.floating):
        return math.isnan(value)
    return isinstance(value, np.datetime64 | np.timedelta64) and bool(np.isnat(value))


def _is_of_numpy(value: Any) -> bool:
    """Whether a value is a scalar or an array of NumPy."""
    return type(value).__module__.partition(".")[0] == "numpy"


def field_text(
    value: Any,
    where: object,
    *,
    only_text: bool = False,
    problem: str = "is not text",
    advise: Callable[[str], str] | None = None,
    error: type[Failure] = CorpusError,
) -> str | None:
    """Return the text of a field; None where it is missing.

    Args:
        value: as the reader of the format returns it.
        where: file, line and field, for messages.
        only_text: refuse numbers, booleans, dates and lists of texts: of a whole corpus they are more likely ids,
            labels or words than text.
        problem: what the message says of a value that is not text.
        advise: given the name of a field with text within an object, returns what the message advises.
        error: class of the error.

    Raises:
        Failure: of the class ``error``: the value is not text.
    """
    if isinstance(value, str):
        return value
    if is_missing(value):
        return None
    if _is_of_numpy(value):
        value = value.tolist()
    if isinstance(value, list | tuple) and value and (not only_text or _is_part(value[0])):
        parts = [_part_text(part, where, error) for part in value]
        return "\n".join(part for part in parts if part is not None)
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            pass  # refused below
    elif not only_text and (text := _scalar_text(value)) is not None:
        return text
    elif isinstance(value, list | tuple) and not value:
        return None
    inner = next((k for k, item in value.items() if isinstance(item, str)), None) if isinstance(value, dict) else None
    fix = advise(str(inner)) if advise is not None and inner is not None else None
    if isinstance(value, dict) and is_keyed_by_row(value):
        fix = ROWS_FIX
    raise error(problem, where=where, found=describe_value(value), expected="a string", fix=fix)


def _part_text(part: Any, where: object, error: type[Failure]) -> str | None:
    """Return the text of an item of a list, which may be a part of a message."""
    if isinstance(part, dict) and "text" in part:
        kind = part.get("type") or "text"
        if kind in _TEXT_PARTS and (part["text"] is None or isinstance(part["text"], str)):
            return part["text"]
    if isinstance(part, dict) and isinstance(part.get("type"), str):
        problem, found = "has a part that is not text", part["type"]
        raise error(problem, where=where, found=found, expected='{"type": "text", "text": …}', fix="Leave it out.")
    if isinstance(part, list | tuple | dict):
        raise error("has an item that is not text", where=where, found=describe_value(part), expected="a string")
    return field_text(part, where, error=error)


def _is_part(item: Any) -> bool:
    return isinstance(item, dict) and ("text" in item or "type" in item)


def _scalar_text(value: Any) -> str | None:
    """Return a number, a boolean or a date as text; None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, WrittenFloat):
        return value.text if math.isfinite(value) else None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return f"{value:f}" if value.is_finite() else None
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else None


def describe_value(value: Any) -> str:
    """Describe a value that is not text, for messages: its type, and what an object or a list has in it."""
    if isinstance(value, dict):
        return f"an object with {', '.join(map(str, value))}"[:_MAX_SHOWN] if value else "an empty object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    if isinstance(value, bytes | bytearray):
        return f"{len(value):,} bytes that are not UTF-8"
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return repr(value)[:_MAX_SHOWN] if isinstance(value, str) else type(value).__name__.removeprefix("Written").lower()
