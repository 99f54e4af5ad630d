"""The command ``evaluate``."""

from typing import Annotated

import typer

from firstlight.cli import show
from firstlight.cli.show import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(evaluate)


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, a checkpoint or a Hugging Face directory.")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="File, folder or named corpus; may be repeated; by default the run's valid split.", show_default=False),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens that each window moves on; by default the block size.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Loss, perplexity and bits per byte on a text, beside what a uniform and a unigram model score.

    Example: firstlight evaluate runs/mine --text other.txt --stride 64
    """
    from firstlight.stages.evaluate import evaluate as stage

    found = stage(run, text or (), stride=stride, device=device)
    if as_json:
        show.as_json(found)
        return
    for number, result in enumerate(found.texts):
        print(f"{'' if number == 0 else chr(10)}{result.name}: {result.n_tokens:,} tokens, {show.size(result.n_bytes)}, stride {found.stride}")
        rows = [
            (name, f"{score.loss:.4f}", f"{score.perplexity:,.2f}", "" if score.bits_per_byte is None else f"{score.bits_per_byte:.4f}")
            for name, score in [("model", result.model), *result.baselines.items()]
        ]
        show.table(("", "loss", "perplexity", "bits/byte"), rows)
        if result.interval is not None:
            low, high = result.interval
            print(f"95 % interval of the loss: {low:.4f} to {high:.4f}")


