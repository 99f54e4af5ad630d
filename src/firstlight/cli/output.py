"""Print what a stage returned: one JSON object for machines, rows for people."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def plain(value: Any) -> Any:
    """Return a value as JSON has it: dataclasses as objects, paths and figures that are not finite as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def as_json(value: Any) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(plain(value), ensure_ascii=False))


def pairs(rows: Mapping[str, object]) -> None:
    """Print names and values, one a line, names aligned."""
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"{name:>{width}}  {value}")


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, words: int = 1) -> None:
    """Print a table; the first ``words`` columns are words, the rest figures, aligned right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        drawn.add_column(head, justify="left" if number < words else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    Console(highlight=False).print(drawn)


def size(n_bytes: float) -> str:
    """Write a size in bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"
