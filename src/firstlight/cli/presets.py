"""The command ``presets``."""

from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.arguments import complete_preset
from firstlight.cli.output import JsonOption, print_result, print_table

if TYPE_CHECKING:
    from firstlight.stages.list_presets import PresetInfo


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(presets)


def presets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Show this preset as TOML, resolved.", autocompletion=complete_preset),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the presets, or show one with every setting.

    Example: firstlight presets gpt2-124m
    """
    from firstlight.stages import list_presets as stage  # loads torch

    if name is None:
        print_result({"presets": stage.list_presets()}, as_json, _print_presets)
    else:
        result = {"name": name, "toml": stage.show_preset(name)}
        print_result(result, as_json, lambda preset: print(preset["toml"], end=""))


def _print_presets(result: "dict[str, list[PresetInfo]]") -> None:
    rows = [
        (
            preset.name,
            preset.command,
            preset.family or "",
            _parameters(preset),
            "" if preset.context is None else f"{preset.context:,}",
            preset.description,
        )
        for preset in result["presets"]
    ]
    columns = ("preset", "command", "family", "parameters", "context", "description")
    print_table(columns, rows, align="lllrrl")


def _parameters(preset: "PresetInfo") -> str:
    if preset.non_embedding_parameters is None:
        return ""
    if preset.parameters is None:  # the size of the vocabulary depends on the text
        return f"{preset.non_embedding_parameters:,} + embeddings"
    return f"{preset.parameters:,}"
