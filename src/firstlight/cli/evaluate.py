"""The command ``evaluate``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight import progress
from firstlight.cli.arguments import map_errors_to_options
from firstlight.cli.output import JsonOption, format_bytes, print_result, print_table
from firstlight.errors import escape

if TYPE_CHECKING:
    from firstlight.evaluation import Likelihood
    from firstlight.stages.evaluate import EvaluateResult


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(evaluate)


def evaluate(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, a checkpoint (RUN@STEP) or a Hugging Face directory.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]",
            help="Settings of the tables corpus, ids and image: how files are read, such as corpus.encoding=gb18030.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="File, folder or named corpus; ids or images for a model of those; may be repeated; by default the "
            "run's validation split.",
            show_default=False,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens between the starts of two windows; by default the block size.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize the matrices to eight bits, as generate --int8 does.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute loss, perplexity and bits per byte on a text.

    Prints them with those of a uniform and a unigram model. Ids and images have bits per token or dimension.

    Example: firstlight evaluate runs/mine --text other.txt --stride 64
    """
    with progress.task("load PyTorch"):
        from firstlight.stages.evaluate import evaluate as stage

    with map_errors_to_options({"hardware.device": "--device", "stride": "--stride"}):
        result = stage(run, text or (), stride=stride, device=device, int8=int8, overrides=settings or ())
    print_result(result, as_json, _print_scores)


def _print_scores(found: "EvaluateResult") -> None:
    for number, result in enumerate(found.texts):
        if number:
            print()
        size = f", {format_bytes(result.n_bytes)}" if result.unit == "byte" else ""
        step = "" if result.unit == "dim" else f", stride {found.stride}"
        n = result.unknown.count
        unknown = f", {n:,} unknown ({100 * result.unknown.fraction(result.n_tokens):.1f} %)" if n else ""
        print(f"{escape(result.name)}: {result.n_tokens:,} tokens{size}{step}{unknown}")
        scores = [("model", result.model), *result.baselines.items()]
        has_characters = any(score.bits_per_character is not None for _, score in scores)
        units = [result.unit, *(["character"] if has_characters else [])]
        heads = ("", "loss", "perplexity", *(f"bits/{unit}" for unit in units))
        print_table(heads, [_row(name, score, result.unit, units) for name, score in scores])
        if result.interval is not None:
            low, high = result.interval
            print(f"95 % interval of the loss: {low:.4f} to {high:.4f}")


def _row(name: str, score: "Likelihood", unit: str, units: Sequence[str]) -> tuple[str, ...]:
    metrics = score.metrics(unit)
    bits = (metrics.get(f"bits_per_{unit}") for unit in units)
    return name, f"{score.loss:.4f}", f"{score.perplexity:,.2f}", *("" if b is None else f"{b:.4f}" for b in bits)
