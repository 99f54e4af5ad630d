"""The command ``settings``."""

from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.output import JsonOption, print_result, print_table

if TYPE_CHECKING:
    from firstlight.stages.list_settings import SettingInfo


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(settings)


def settings(
    prefix: Annotated[
        str | None,
        typer.Argument(metavar="PREFIX", help="Only settings below this key, such as optim.schedule."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List all settings with default, range and meaning.

    Settings are given as key=value, in the [tables] of a RUN.toml, or by a preset.

    Example: firstlight settings optim.schedule
    """
    from firstlight.stages.list_settings import list_settings  # loads torch

    print_result({"settings": list_settings(prefix)}, as_json, _print_settings)


def _print_settings(result: "dict[str, list[SettingInfo]]") -> None:
    found = result["settings"]
    commands = {setting.key: set[tuple[str, ...]]() for setting in found}
    for setting in found:
        commands[setting.key].add(setting.commands)
    rows = []
    for setting in found:
        # Commands are shown where the setting differs between them.
        notes = [*setting.only_with, *(setting.commands if len(commands[setting.key]) > 1 else ())]
        meaning = f"{setting.description} [{', '.join(notes)}]".lstrip() if notes else setting.description
        rows.append((setting.key, setting.default_text(), setting.values, meaning))
    print_table(("setting", "default", "values", "meaning"), rows, n_text=4)
