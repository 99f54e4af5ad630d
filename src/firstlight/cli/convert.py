"""The commands ``import`` and ``export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.arguments import OverwriteOption
from firstlight.cli.output import JsonOption, print_pairs, print_result
from firstlight.convert import EXPORTERS, IMPORTERS
from firstlight.files import is_stream

if TYPE_CHECKING:
    from firstlight.stages.convert import Imported, ImportedData


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A model: a file, a folder, or a name on the Hugging Face hub. Or token files of nanoGPT, llm.c or "
            "Megatron-LM.",
        ),
    ],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder to write.")],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="The tokenizer, if SOURCE has none.", show_default=False),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"Format of the model: {', '.join(sorted(IMPORTERS))}, or package.module:NAME of an Importer. "
            "Detected by default.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Type of token ids in files without a header, such as uint32. By default uint16, or uint32 for a "
            "tokenizer of more than 65,536 ids.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import a model or token files of another program.

    A model is written as a Hugging Face directory, which every command accepts as RUN; token files as a token store
    for pretrain.

    Example: firstlight import SmolLM2-135M.Q8_0.gguf runs/smollm2
    """
    from firstlight.stages import convert as stage  # loads torch

    result = stage.import_(source, out=run, tokenizer_path=tokenizer, format=format, dtype=dtype)
    if isinstance(result, stage.Imported):
        print_result(result, as_json, _print_model)
    else:
        print_result(result, as_json, _print_data)


def _print_model(model: "Imported") -> None:
    print_pairs(
        {
            "format": model.format,
            "run": model.run,
            "family": model.family,
            "parameters": f"{model.parameters:,}",
            "vocabulary": f"{model.vocab_size:,}",
            "block size": f"{model.block_size:,}",
            "tokenizer": model.tokenizer,
        }
    )


def _print_data(data: "ImportedData") -> None:
    print_pairs(
        {
            "store": data.store,
            "training": f"{data.train_tokens:,} tokens",
            "validation": f"{data.valid_tokens:,} tokens",
            "documents": f"{data.documents:,}",
            "vocabulary": f"{data.vocab_size:,}",
        }
    )


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, a checkpoint (RUN@STEP) or a Hugging Face directory.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file or folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help=f"The format: {', '.join(sorted(EXPORTERS))}, or package.module:NAME of an Exporter."
        ),
    ],
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Data type of the weights, for formats with several: f32, f16 or q8_0 for gguf.",
            show_default=False,
        ),
    ] = None,
    without_head: Annotated[
        bool,
        typer.Option(
            "--without-head",
            help="Export only the language model of a fine-tuned model with task heads, which formats other than hf "
            "have no place for.",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a model to another program's format.

    Example: firstlight export runs/mine mine.gguf --to gguf --dtype q8_0
    """
    from firstlight.stages import convert as stage  # loads torch

    result = stage.export(run, to, out, dtype=dtype, overwrite=overwrite, without_head=without_head)
    if not is_stream(out):  # lines would be among the bytes of the model
        print_result(result, as_json, lambda result: print_pairs(result.files))
