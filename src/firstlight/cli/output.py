"""Print what a stage returned: one JSON object with ``--json``, aligned text otherwise."""

import dataclasses
import errno
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from firstlight.errors import Interrupted, StorageError, escape
from firstlight.files import finite_json, run_layout
from firstlight.shell import install_extra, quote_argument, tensorboard_command

if TYPE_CHECKING:
    from firstlight.runs import RunResult

T = TypeVar("T")
R = TypeVar("R", bound="RunResult")

READER_GONE = (errno.EPIPE, errno.EIO)  # of a pipe, and of a terminal
_LINE_BREAK = "\n"
_PIPE_WIDTH = 1000  # of tables in files and pipes: rows are not wrapped

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


def print_run_result(result: R, as_json: bool, render: Callable[[R], None]) -> None:
    """Print the result of a run; exit with 128 plus the number of the signal that ended it, if one did.

    A reader or a terminal that has gone away does not make a run fail that has finished and is saved.
    """
    try:
        print_result(result, as_json, render)
        sys.stdout.flush()
    except OSError as error:
        if result.interrupted_by is None and error.errno not in READER_GONE:
            raise StorageError(
                f"cannot be written: {error.strerror}",
                where="standard output",
                fix=f"The run itself has {result.how_it_ended}: look at {quote_argument(result.run)}",
            ) from error
    if result.interrupted_by is not None:
        raise typer.Exit(Interrupted(result.interrupted_by).exit_code)


def print_report(result: "RunResult") -> None:
    """Print where the report and the curves of a run are; nothing on processes that wrote none."""
    from firstlight.files.run_layout import TENSORBOARD

    if result.report is None:
        return
    print(f"report: {result.report}")
    folder = result.run / TENSORBOARD
    command = tensorboard_command(folder)
    if command is None:
        print(f"curves in TensorBoard: it is not installed. {install_extra('tensorboard')}")
    elif folder.is_dir():
        print(f"curves in TensorBoard: {command}")


def print_evaluations(result: "RunResult", commands: str, more: str = "") -> None:
    """Print the last and the best evaluation of a run with their steps, and which checkpoint the commands use.

    Args:
        result: of the run.
        commands: that use a model of this kind: "generate uses".
        more: further metrics of the last evaluation.
    """
    last, best = result.last, result.best
    if last is not None:
        values = ", ".join(f"validation {name} {value:.4f}" for name, value in last.items() if name != "step")
        print(f"last evaluation: step {last['step']}, {values}{more}")
    if best is None:
        file = result.run / run_layout.BEST  # also of a run that an earlier version has finished
        print(
            f"best checkpoint: {file.read_text(encoding='utf-8').strip()}; {commands} this checkpoint"
            if file.is_file()
            else f"no evaluation has selected a best checkpoint; {commands} the latest one"
        )
        return
    name, value = next((name, value) for name, value in best.items() if name != "step")
    is_last = best["step"] == result.step
    other = "" if is_last else f"; the last one is {quote_argument(f'{result.run}@{result.step}')}"
    print(f"best evaluation: step {best['step']}, validation {name} {value:.4f}; {commands} this checkpoint{other}")


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
    return finite_json(value)


def print_pairs(rows: Mapping[str, object], *, width: int = 0) -> None:
    """Print names and values, one pair per line, with the names aligned, in at least ``width`` columns."""
    width = max(width, *map(len, rows), 0)
    for name, value in rows.items():
        print(f"{name:>{width}}  {escape(str(value), keep=_LINE_BREAK)}")


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, n_text: int = 1, align: str | None = None
) -> None:
    """Print a table, wrapped to the width of a terminal; in a file or pipe every row is one line.

    Args:
        columns: headings.
        rows: cells.
        n_text: the first columns, left-aligned as text; the others are right-aligned as numbers.
        align: instead of ``n_text``, ``l`` or ``r`` for each column; the remaining ones are ``r``.
    """
    align = "l" * n_text if align is None else align
    from rich.console import Console  # loaded when the first table is printed
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    texts = [[Text(escape(str(cell), keep=_LINE_BREAK)) for cell in row] for row in rows]
    longest_name = max((row[0].cell_len for row in texts if row), default=0)
    for index, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if align[index : index + 1] == "l" else "right"
        is_whole = index == 0 and longest_name <= console.width // 2  # a name, which is copied
        table.add_column(column, justify=justify, overflow="fold", no_wrap=is_whole)
    for row in texts:
        table.add_row(*row)
    with console.capture() as text:  # printed here: rich itself ends the program where a reader has gone
        console.print(table)
    print(text.get(), end="")


def format_bytes(n_bytes: float) -> str:
    """Format a size in bytes with a decimal unit, such as ``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"


def format_duration(seconds: float | None) -> str:
    """Format a duration, such as ``1.5 ms``, ``12.0 s``, ``3.4 min``; ``unknown`` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 1:
        return f"{1000 * seconds:,.1f} ms"
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def format_stop_reason(stopped_by: str) -> str:
    """Format what ended a run: the setting of the limit that was reached, or a signal."""
    if stopped_by in ("steps", "tokens", "epochs", "minutes", "stop_after"):
        return f"train.{stopped_by}"
    return {"auto": "train.steps=auto", "convergence": "converged"}.get(stopped_by, stopped_by)
