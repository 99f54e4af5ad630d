"""Read a log of JSON lines in order, of any length and in any state, with what is wrong with it."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

_CHUNK_LINES, _CHUNK_BYTES = 2000, 1 << 22
_MAX_LINE_BYTES = 1 << 24  # a longer line is damaged


class JsonLines:
    """The objects of a file, one a line; iterating yields each with the offset of its line.

    The attributes are complete when the iteration has ended.

    Attributes:
        n_damaged: lines that are not JSON objects; blank lines, and an incomplete last one, do not count.
        first_damaged: number of the first of them, from 1.
        incomplete_at: offset of a last line that has no line break and is not a JSON object, as a kill leaves it.
        ends_line: whether the file is empty or ends with a line break.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.n_damaged, self.first_damaged = 0, 0
        self.incomplete_at: int | None = None
        self.ends_line = True

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        number = offset = 0
        while lines := self._read_chunk():
            for (line, size), table in zip(lines, _parse([line for line, _ in lines]), strict=True):
                number += 1
                if table is not None:
                    yield offset, table
                elif not line.endswith(b"\n"):
                    self.incomplete_at = offset
                elif line.strip():
                    self.n_damaged += 1
                    self.first_damaged = self.first_damaged or number
                offset += size

    def describe_damage(self) -> str:
        """Return a clause with number and first line of the damaged lines; empty if there is none."""
        clauses = []
        if self.n_damaged == 1:
            clauses.append(f"line {self.first_damaged:,} is not a JSON object")
        elif self.n_damaged:
            clauses.append(f"{self.n_damaged:,} lines are not JSON objects, the first is line {self.first_damaged:,}")
        if self.incomplete_at is not None:
            clauses.append("the last line is incomplete")
        return "; ".join(clauses)

    def _read_chunk(self) -> list[tuple[bytes, int]]:
        """Return the next lines with their sizes; of one that is too long, only the end."""
        lines: list[tuple[bytes, int]] = []
        total = 0
        while len(lines) < _CHUNK_LINES and total < _CHUNK_BYTES and (line := self._file.readline(_MAX_LINE_BYTES)):
            size = len(line)
            if size == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := self._file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    size += len(rest)
                size += len(rest)
                line = b"\0" + rest[-1:]
            lines.append((line, size))
            total += size
        self.ends_line = lines[-1][0].endswith(b"\n") if lines else self.ends_line
        return lines


def _parse(lines: list[bytes]) -> list[dict[str, Any] | None]:
    """Parse each line; None for one that is blank or not a JSON object.

    Parsing all lines as one list takes half the time, so that is tried first. Broken lines that form a valid list
    together are detected by their number and their ends.
    """
    if all(line[:1] == b"{" and line[-2:] == b"}\n" for line in lines):
        try:
            tables = json.loads(f"[{b','.join(lines).decode()}]")
            if len(tables) == len(lines) and all(type(table) is dict for table in tables):
                return list(tables)
        except (ValueError, RecursionError):
            pass
    return [_parse_alone(line) for line in lines]


def _parse_alone(line: bytes) -> dict[str, Any] | None:
    try:
        table = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None
