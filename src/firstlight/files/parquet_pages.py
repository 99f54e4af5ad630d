"""Check the pages of a Parquet file before they are decompressed, which pyarrow does without a limit.

Only the headers of the pages are read: a struct of Thrift's compact protocol in front of each.
Source: github.com/apache/parquet-format, PageHeader; github.com/apache/thrift, thrift-compact-protocol.
"""

from collections.abc import Sequence
from typing import Any, BinaryIO

from firstlight.errors import Failure
from firstlight.files.limits import Limits
from firstlight.files.protobuf import read_varint

_PAGE_ROWS = 256
_HEADER_BYTES = 1 << 10  # usually about 50
_MAX_HEADER_BYTES = 1 << 24
_MAX_DEPTH = 8
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12
_UNCOMPRESSED, _COMPRESSED, _HEADER_V1, _HEADER_V2 = 2, 3, 5, 8  # fields of a page's header
_N_VALUES = 1  # field of the header of a data page
_INDEX_BYTES = 4  # of a value of a list, however long it is


def batch_rows(
    file: BinaryIO,
    metadata: Any,
    columns: Sequence[str] | None,
    limits: Limits,
    where: object,
    *,
    error: type[Failure],
) -> int:
    """Return the number of rows that can be read at once, such that they fit into ``max_document_bytes``.

    A value may be as long as its page, and through a dictionary each row may have the same one. The values of lists are
    counted, but not measured: a list may repeat a long value of its dictionary.

    Args:
        file: the Parquet file; its position changes.
        metadata: pyarrow's ``FileMetaData`` of it.
        columns: those that will be read, nested ones as ``a.b``; None for all.
        limits: the limits.
        where: the file, for messages.
        error: class of the error.

    Raises:
        Failure: of the class ``error``: a page is too large, or the file expands too far.
    """
    size = file.seek(0, 2)
    limits.check_ratio(metadata.num_rows, size, where, error=error)  # at least one byte per row
    n_bytes = largest = 0
    lists = [metadata.schema.column(index).max_repetition_level > 0 for index in range(metadata.num_columns)]
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(metadata.num_columns):
            column = row_group.column(index)
            path = column.path_in_schema
            if columns is not None and not any(path == name or path.startswith(f"{name}.") for name in columns):
                continue
            start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)), default=0)
            for page, n_values in _pages(file, start, min(size, start + column.total_compressed_size), where, error):
                limits.check_size(page, f"a page of the column {path!r}", where, error=error)
                width = max(_INDEX_BYTES, metadata.schema.column(index).length or 0)
                n_bytes += max(page, n_values * width) if lists[index] else page
                largest = max(largest, page)
            limits.check_ratio(n_bytes, size, where, error=error)
    return max(1, min(_PAGE_ROWS, limits.max_document_bytes // max(1, largest)))


def _pages(file: BinaryIO, start: int, end: int, where: object, error: type[Failure]) -> list[tuple[int, int]]:
    """Return the decompressed size of each page of a column, and its number of values."""
    pages = []
    while 0 <= start < end:
        fields, n = _read_header(file, start, where, error)
        decompressed, compressed = fields.get((_UNCOMPRESSED,), -1), fields.get((_COMPRESSED,), -1)
        n_values = fields.get((_HEADER_V1, _N_VALUES)) or fields.get((_HEADER_V2, _N_VALUES)) or 0
        if decompressed < 0 or compressed < 0 or n_values < 0:
            raise error("is not a readable Parquet file: a page has no size", where=where, fix="Fetch it again.")
        pages.append((decompressed, n_values))
        start += n + compressed
    return pages


def _read_header(
    file: BinaryIO, start: int, where: object, error: type[Failure]
) -> tuple[dict[tuple[int, ...], int], int]:
    """Return the integers of a page's header by field (those of a struct within it by both), and its length."""
    length = _HEADER_BYTES
    while True:
        file.seek(start)
        data = file.read(length)
        try:
            return _read_struct(data, 0)
        except (IndexError, ValueError) as refused:
            if len(data) < length or length > _MAX_HEADER_BYTES:
                message = "is not a readable Parquet file: a page has an invalid header"
                raise error(message, where=where, fix="Fetch it again.") from refused
            length *= 16


def _read_struct(data: bytes, pos: int, depth: int = 0) -> tuple[dict[tuple[int, ...], int], int]:
    """Return the integers of a struct by field, and the position after it; IndexError or ValueError at the end."""
    fields: dict[tuple[int, ...], int] = {}
    field = 0
    while head := data[pos]:
        pos += 1
        delta, kind = head >> 4, head & 15
        if delta:
            field += delta
        else:
            field, pos = _integer(data, pos)
        if kind in _INTEGERS:
            fields[(field,)], pos = _integer(data, pos)
        elif kind == _STRUCT and depth < _MAX_DEPTH:
            inner, pos = _read_struct(data, pos, depth + 1)
            fields |= {(field, *path): value for path, value in inner.items()}
        elif kind not in _BOOLEANS:
            pos = _skip(data, pos, kind, depth)
    return fields, pos + 1


def _skip(data: bytes, pos: int, kind: int, depth: int) -> int:
    """Return the position after a value of a type other than an integer of a field."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if kind in (*_BOOLEANS, _BYTE):
        return pos + 1
    if kind in _INTEGERS:
        return _integer(data, pos)[1]
    if kind == _DOUBLE:
        return pos + 8
    if kind == _BINARY:
        length, pos = read_varint(data, pos)
        return pos + length
    if kind == _STRUCT:
        return _read_struct(data, pos, depth + 1)[1]
    if kind not in _LISTS:
        raise ValueError(f"unknown type {kind}")
    count, item = data[pos] >> 4, data[pos] & 15
    pos += 1
    if count == 15:
        count, pos = read_varint(data, pos)
    for _ in range(count):
        pos = _skip(data, pos, item, depth + 1)
        data[pos - 1]  # the data ends before the list
    return pos


def _integer(data: bytes, pos: int) -> tuple[int, int]:
    value, pos = read_varint(data, pos)
    return (value >> 1) ^ -(value & 1), pos
