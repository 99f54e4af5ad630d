"""Parse protocol buffers' wire format, as far as SentencePiece models and TensorFlow checkpoints need it."""

from collections.abc import Iterator
from typing import Any

_MAX_VARINT_BYTES = 10


def read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Read the integer that starts at a byte offset; return it and the offset behind it.

    Raises:
        ValueError: it has no end.
    """
    value = 0
    for i, byte in enumerate(data[offset : offset + _MAX_VARINT_BYTES]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, offset + i + 1
    raise ValueError(f"a varint without an end at byte {offset:,}")


def iter_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a message as (number, value): integers as int, everything else as bytes.

    Raises:
        ValueError: the bytes are not a message.
    """
    offset = 0
    while offset < len(data):
        key, offset = read_varint(data, offset)
        wire_type = key & 7
        value: int | bytes | None = None
        if wire_type == 0:
            value, offset = read_varint(data, offset)
        elif wire_type in (1, 2, 5):
            size, offset = read_varint(data, offset) if wire_type == 2 else (8 if wire_type == 1 else 4, offset)
            value, offset = data[offset : offset + size], offset + size
        if value is None or offset > len(data):
            raise ValueError(f"not a protocol buffer message at byte {offset:,}")
        yield key >> 3, value
