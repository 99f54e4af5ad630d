"""The command ``doctor``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.output import JsonOption, print_result

if TYPE_CHECKING:
    from firstlight.stages.doctor import Diagnosis


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor(
    folder: Annotated[Path, typer.Option("--folder", help="Folder whose disk is checked.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Check what this machine supports.

    Reports versions, GPUs, memory, disk and packages, and what to install. Exits with 1 if something will not work.

    Example: firstlight doctor
    """
    from firstlight.stages.doctor import doctor as stage

    found = stage(folder)
    print_result(found, as_json, _print_diagnosis)
    if not found.healthy:
        raise typer.Exit(1)


def _print_diagnosis(found: "Diagnosis") -> None:
    signs = {"ok": "ok  ", "note": "note", "problem": "BAD "}
    width = max(len(finding.name) for finding in found.findings)
    for finding in found.findings:
        fix = f"  -> {finding.fix}" if finding.fix else ""
        print(f"{signs[finding.level]}  {finding.name:<{width}}  {finding.value}{fix}")
    sys.stdout.flush()
