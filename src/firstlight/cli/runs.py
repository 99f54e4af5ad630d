"""The commands ``runs`` and ``runs diff``."""

import json
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from firstlight.cli.output import JsonOption, format_bytes, format_duration, print_result, print_table
from firstlight.errors import escape, nearest

if TYPE_CHECKING:
    from firstlight.stages.list_runs import RunComparison, RunSummary


class _RunsGroup(TyperGroup):
    """A group whose command is ``list`` if the first argument is not the name of another one."""

    default_command = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command."""
        first = args[0] if args else self.default_command
        if not args or not (first in ctx.help_option_names or self._is_command(first) or self._is_no_folder(args)):
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)

    def _is_command(self, word: str) -> bool:
        """Whether a word is a command, or a misspelt one, and not a folder."""
        return word in self.commands or (nearest(word, self.commands) is not None and not Path(word).exists())

    def _is_no_folder(self, args: list[str]) -> bool:
        """Whether the first argument is not that of ``list``, which takes one, as in ``runs compare A B``."""
        return len([arg for arg in args if not arg.startswith("-")]) > 1 and not Path(args[0]).exists()


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        cls=_RunsGroup,
        help="List runs with their state and metrics, or compare two.\n\n"
        "firstlight runs [DIR] is short for firstlight runs list [DIR].\n\nExample: firstlight runs",
    )
    group.command("list")(list_runs)
    group.command("diff")(diff)
    app.add_typer(group, name="runs")


def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that holds the run directories.")] = Path(
        "runs"
    ),
    as_json: JsonOption = False,
) -> None:
    """List the runs below a folder, the latest first.

    State: running, finished, stopped (at train.stop_after), interrupted (by a signal), failed, or incomplete
    (killed). All but a finished one can be resumed.

    Example: firstlight runs list runs
    """
    from firstlight.stages import list_runs as stage

    print_result({"runs": stage.list_runs(folder)}, as_json, _print_runs)


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run directory.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another run directory.")],
    as_json: JsonOption = False,
) -> None:
    """Compare the settings and metrics of two runs.

    It says where their validation losses do not compare: other text, windows or tokenizers.

    Example: firstlight runs diff runs/a runs/b
    """
    from firstlight.stages import list_runs as stage

    print_result(stage.compare_runs(first, second), as_json, _print_comparison)


def _print_runs(result: "dict[str, list[RunSummary]]") -> None:
    if not result["runs"]:
        print("no runs")
        return
    rows = [{"run": run.name, **_cells(run)} for run in result["runs"]]
    columns = _fitting_columns(rows, shutil.get_terminal_size().columns) if sys.stdout.isatty() else list(rows[0])
    align = "".join("l" if name in ("run", "kind", "state") else "r" for name in columns)
    print_table(columns, [[row[name] for name in columns] for row in rows], align=align)
    left_out = [name for name in rows[0] if name not in columns and any(row[name] != "–" for row in rows)]
    if left_out:
        print(f"In a wider terminal, in a pipe or with --json also: {', '.join(left_out)}")
    for run in result["runs"]:
        for needed in run.depends_on:
            print(f"{escape(run.name)}: depends on {escape(str(needed))}")
        for problem in run.problems:
            print(f"{escape(run.name)}: {escape(str(problem))}")


def _fitting_columns(rows: list[dict[str, str]], width: int) -> list[str]:
    """Return the columns that a terminal shows without breaking a value: without empty ones and, if need be, others."""
    from rich.cells import cell_len  # loaded when the first table is printed

    columns = [name for name in rows[0] if name in ("run", "state") or any(row[name] != "–" for row in rows)]
    widths = {name: max(map(cell_len, [*name.split(), *(row[name] for row in rows)])) for name in columns}
    for name in ("size", "parameters", "kind", "time", "last change", "bits", "metrics"):
        if sum(widths[column] + 2 for column in columns) - 2 <= width:
            break
        columns = [column for column in columns if column != name]
    return columns


def _cells(run: "RunSummary") -> dict[str, str]:
    bits = next(iter(run.bits.items()), None)
    modified = None if run.modified is None else datetime.fromtimestamp(run.modified)  # noqa: DTZ006 - local time
    return {
        "kind": run.kind or "–",
        "state": run.state,
        "steps": _optional(run.steps, ","),
        "valid loss": _optional(run.valid_loss, ".4f"),
        "metrics": ", ".join(f"{name} {value:.4f}" for name, value in run.task_metrics.items()) or "–",
        "bits": "–" if bits is None else f"{bits[1]:.4f}/{bits[0].removeprefix('bits_per_')}",
        "parameters": _optional(run.parameters, ","),
        "size": format_bytes(run.size_bytes),
        "time": "–" if run.seconds is None else format_duration(run.seconds),
        "last change": "–" if modified is None else f"{modified:%Y-%m-%d %H:%M}",
    }


def _format_setting(value: object) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _optional(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)


def _print_comparison(result: "RunComparison") -> None:
    first, second = result.first, result.second
    names = (str(first.path), str(second.path))
    if result.settings:
        rows = [(key, *map(_format_setting, values)) for key, values in result.settings.items()]
        print_table(("setting", *names), rows, n_text=3)
    else:
        print("the settings are the same")
    for name, changes in zip(names, result.changes, strict=True):
        for change in changes:
            print(f"{escape(name)}: {escape(change)}")
    print()
    cells = [_cells(first), _cells(second)]
    print_table(("metric", *names), [(key, cells[0][key], cells[1][key]) for key in cells[0]])
    for note in result.notes:
        print(escape(note))
