"""The commands ``import`` and ``export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.output import JsonOption, print_pairs, print_result

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
            help="A file of llama.cpp (GGUF), nanoGPT, llm.c, llama2.c or Keras; a folder of OpenAI's GPT-1 or GPT-2, "
            "of KerasHub or Hugging Face; a name on the hub; or ids that nanoGPT, llm.c or Megatron-LM prepared.",
        ),
    ],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder to write.")],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="The tokenizer, where SOURCE has none beside it.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring in a model or prepared data from elsewhere.

    A model becomes a Hugging Face directory that every command takes as RUN; ids become a token store to pre-train on.

    Example: firstlight import SmolLM2-135M.Q8_0.gguf runs/smollm2
    """
    from firstlight.stages import convert as stage

    result = stage.import_(source, out=run, tokenizer_path=tokenizer)
    if isinstance(result, stage.Imported):
        print_result(result, as_json, _print_model)
    else:
        print_result(result, as_json, _print_data)


def _print_model(model: "Imported") -> None:
    print_pairs(
        {
            "from": model.form,
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
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, a checkpoint or a Hugging Face directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file or folder to write.")],
    to: Annotated[str, typer.Option("--to", help="gguf, onnx, keras, pt2 (torch.export), nanogpt or megatron.")],
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of gguf: f32, f16 or q8_0.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model for another program.

    Example: firstlight export runs/mine mine.gguf --to gguf --dtype q8_0
    """
    from firstlight.stages import convert as stage

    result = stage.export(run, to, out, kind=dtype)
    print_result(result, as_json, lambda result: print_pairs(result.files))
