"""The commands ``tokenizer vectors train`` and ``tokenizer vectors eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.arguments import OverwriteOption, split_arguments
from firstlight.cli.output import JsonOption, print_pairs, print_result, print_table
from firstlight.errors import UsageError

if TYPE_CHECKING:
    from firstlight.stages.vectors import VectorsEvalResult, VectorsTrainResult


def register(app: typer.Typer) -> None:
    """Add the commands to the group of tokenizers."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Train and evaluate word vectors.\n\nExample: firstlight tokenizer vectors train books/ --out books.vec",
    )
    group.command("train")(train)
    group.command("eval")(evaluate)
    app.add_typer(group, name="vectors")


def train(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS|KEY=VALUE",
            help="Files, folders, globs, named corpora; and settings of the tables corpus and vectors.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="The file: .txt or .vec, .bin, .npy, .safetensors; each also .gz.")
    ],
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train word vectors on a corpus.

    With word2vec (skip-gram or CBOW) or GloVe, on the words of tokenizer kind word.

    Example: firstlight tokenizer vectors train books/ --out books.vec vectors.method=glove vectors.epochs=25
    """
    from firstlight.stages import vectors as stage

    corpus, overrides = split_arguments(arguments)
    if not corpus:
        raise UsageError("no corpus", fix="Name files, folders or a named corpus.")
    print_result(stage.train(corpus, out=out, overrides=overrides, overwrite=overwrite), as_json, _print_training)


def _print_training(result: "VectorsTrainResult") -> None:
    print_pairs(
        {
            "path": result.path,
            "method": result.method,
            "words": f"{result.n_words:,}",
            "width": result.width,
            "trained on": f"{result.text_words:,} words of text",
            "most frequent": "  ".join(result.most_frequent),
        }
    )


def evaluate(
    path: Annotated[str, typer.Argument(metavar="FILE", help="Word vectors.")],
    similarity: Annotated[
        list[Path] | None,
        typer.Option(help="Word pairs with human similarity scores, such as WordSim-353; may be repeated."),
    ] = None,
    analogies: Annotated[
        list[Path] | None, typer.Option(help="Analogy questions of four words, such as Google's; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=4, help="Use only this many of the first words for analogies.")] = 300_000,
    on_bad_bytes: Annotated[
        str,
        typer.Option("--on-bad-bytes", help="Bytes of words that are not UTF-8: error, replace or skip."),
    ] = "error",
    as_json: JsonOption = False,
) -> None:
    """Evaluate word vectors on similarity and analogies.

    Reports Spearman's correlation with human similarity scores, and the accuracy on analogies.

    Example: firstlight tokenizer vectors eval glove.txt --similarity wordsim353.tsv --analogies questions-words.txt
    """
    from firstlight.stages import vectors as stage

    result = stage.evaluate(
        path, pairs=similarity or (), questions=analogies or (), restrict_vocab=top, on_bad_bytes=on_bad_bytes
    )
    print_result(result, as_json, _print_evaluation)


def _print_evaluation(result: "VectorsEvalResult") -> None:
    print(f"{result.path}: {result.n_words:,} words, width {result.width}")
    if result.similarity:
        print()
        cells = [
            (pairs.file, _format(pairs.spearman), f"{pairs.evaluated:,}", f"{pairs.skipped:,}")
            for pairs in result.similarity
        ]
        print_table(("similarity", "Spearman", "pairs", "skipped"), cells)
    if result.analogies:
        print()
        cells = [
            (section.name, _format(section.accuracy), f"{section.evaluated:,}", f"{section.skipped:,}")
            for section in result.analogies
        ]
        print_table(("analogies", "accuracy", "questions", "skipped"), cells)


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
