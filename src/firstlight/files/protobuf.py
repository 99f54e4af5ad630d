"""Protocol buffers' wire format, as far as three foreign formats need it."""

from collections.abc import Iterator
from typing import Any

_BYTES = 10  # of the longest number


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at byte ``at``, and where it ends.

    Raises:
        ValueError: it has no end.
    """
    value = 0
    for i, byte in enumerate(data[at : at + _BYTES]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    raise ValueError(f"a number without an end at byte {at:,}")


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a message, by number: whole numbers as int, everything else as bytes.

    Raises:
        ValueError: it is no message.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        value: int | bytes | None = None
        if kind == 0:
            value, at = varint(data, at)
        elif kind in (1, 2, 5):
            size, at = varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
            value, at = data[at : at + size], at + size
        if value is None or at > len(data):
            raise ValueError(f"no message at byte {at:,}")
        yield key >> 3, value
