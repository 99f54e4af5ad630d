"""The commands ``tokenizer vectors train`` and ``tokenizer vectors eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstlight.cli.arguments import split_arguments
from firstlight.cli.output import JsonOption, print_pairs, print_result, print_table
from firstlight.errors import UsageError

if TYPE_CHECKING:
    from firstlight.stages.vectors import VectorFacts, VectorFigures


def register(app: typer.Typer) -> None:
    """Add the commands to the group of tokenizers."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Train and judge word vectors.\n\nExample: firstlight tokenizer vectors train books/ --out books.vec",
    )
    group.command("train")(train)
    group.command("eval")(judge)
    app.add_typer(group, name="vectors")


def train(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS|KEY=VALUE",
            help="Files, folders, globs, named corpora; and settings of the tables corpus and vectors.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="The file: .txt or .vec, .bin, .npy, .safetensors; each also .gz.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Train word vectors on a corpus.

    By word2vec's skip-gram or CBOW, or by GloVe; words are those that kind word has.

    Example: firstlight tokenizer vectors train books/ --out books.vec vectors.method=glove vectors.epochs=25
    """
    from firstlight.stages import vectors as stage

    inputs, settings = split_arguments(words)
    if not inputs:
        raise UsageError("no corpus", fix="Name files, folders or a named corpus.")
    print_result(stage.train(inputs, out=out, overrides=settings), as_json, _print_facts)


def _print_facts(facts: "VectorFacts") -> None:
    print_pairs(
        {
            "path": facts.path,
            "method": facts.method,
            "words": f"{facts.n_words:,}",
            "width": facts.width,
            "learnt from": f"{facts.text_words:,} words of text",
            "commonest": "  ".join(facts.commonest),
        }
    )


def judge(
    path: Annotated[str, typer.Argument(metavar="FILE", help="Word vectors.")],
    similarity: Annotated[
        list[Path] | None,
        typer.Option(help="Pairs of words with people's scores, such as WordSim-353; may be repeated."),
    ] = None,
    analogies: Annotated[
        list[Path] | None, typer.Option(help="Questions of four words, such as Google's; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=4, help="Words that may be answers, from the file's beginning.")] = 300_000,
    as_json: JsonOption = False,
) -> None:
    """Judge word vectors by similarity and analogies.

    Word similarity is told as Spearman's correlation with people's scores, analogies as accuracy.

    Example: firstlight tokenizer vectors eval glove.txt --similarity wordsim353.tsv --analogies questions-words.txt
    """
    from firstlight.stages import vectors as stage

    result = stage.judge(path, pairs=similarity or (), questions=analogies or (), most=top)
    print_result(result, as_json, _print_evaluation)


def _print_evaluation(found: "VectorFigures") -> None:
    print(f"{found.path}: {found.n_words:,} words, width {found.width}")
    if found.similarity:
        print()
        cells = [(one.file, _figure(one.spearman), f"{one.found:,}", f"{one.skipped:,}") for one in found.similarity]
        print_table(("similarity", "Spearman", "pairs", "skipped"), cells)
    if found.analogies:
        print()
        cells = [(one.name, _figure(one.accuracy), f"{one.found:,}", f"{one.skipped:,}") for one in found.analogies]
        print_table(("analogies", "accuracy", "questions", "skipped"), cells)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
