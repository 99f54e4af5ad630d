"""Print what a stage returned: one JSON object with ``--json``, aligned text otherwise."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def print_result(result: T, as_json: bool, render: Callable[[T], None]) -> None:
    """Print a result as one JSON object on one line, or with ``render``.

    A result with a ``to_json`` method is printed as what that returns.
    """
    if as_json:
        table = result.to_json() if hasattr(result, "to_json") else result
        print(json.dumps(to_plain(table), ensure_ascii=False))
    else:
        render(result)


def to_plain(value: Any) -> Any:
    """Convert a value to JSON types: dataclasses to objects, paths and non-finite numbers to strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def print_pairs(rows: Mapping[str, object]) -> None:
    """Print names and values, one pair per line, with the names aligned."""
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"{name:>{width}}  {value}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, n_text: int = 1) -> None:
    """Print a table; the first ``n_text`` columns are left-aligned text, the others right-aligned numbers."""
    from rich.console import Console  # loaded when the first table is printed
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < n_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(highlight=False).print(table)


def format_bytes(n_bytes: float) -> str:
    """Format a size in bytes with a decimal unit, such as ``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"
