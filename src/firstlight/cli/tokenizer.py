"""The commands ``tokenizer train``, ``import``, ``show``, ``encode``, ``decode`` and ``compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight.cli import vectors
from firstlight.cli.arguments import read_stdin, split_arguments
from firstlight.cli.output import JsonOption, print_pairs, print_result, print_table
from firstlight.errors import UsageError

if TYPE_CHECKING:
    from firstlight.stages.tokenizer import TokenizerFacts

_LONGEST_ID = 18  # digits; more than any vocabulary has
_SHOWN = 32  # characters of a long token

PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="A tokenizer.json, or a folder, run, store or model that has one.")
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for tokenizer.json.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Train, import, look at and compare tokenizers.\n\nExample: firstlight tokenizer show runs/mine",
    )
    group.command("train")(train)
    group.command("import")(import_)
    for command in (show, encode, decode, compare):
        group.command()(command)
    vectors.register(group)
    app.add_typer(group, name="tokenizer")


def train(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS|KEY=VALUE",
            help="Files, folders, globs, named corpora, - for standard input; and settings of the tables corpus and "
            "tokenizer.",
        ),
    ],
    out: OutOption,
    as_json: JsonOption = False,
) -> None:
    """Train a tokenizer on a corpus.

    Example: firstlight tokenizer train books/*.txt --out tokenizers/books tokenizer.vocab_size=4096
    """
    from firstlight.stages import tokenizer as stage

    inputs, settings = split_arguments(words)
    if not inputs:
        raise UsageError("no corpus", fix="Name files, folders or a named corpus.")
    print_result(stage.train(inputs, out=out, overrides=settings), as_json, _print_facts)


def import_(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="GPT-1's or GPT-2's folder, a .tiktoken file, or a tokenizer.json."),
    ],
    out: OutOption,
    as_json: JsonOption = False,
) -> None:
    """Make a tokenizer.json from what others publish.

    Example: firstlight tokenizer import gpt2/ --out tokenizers/gpt2
    """
    from firstlight.stages import tokenizer as stage

    print_result(stage.import_(source, out=out), as_json, _print_facts)


def show(path: PathArgument, as_json: JsonOption = False) -> None:
    """Show what a tokenizer is.

    Example: firstlight tokenizer show runs/mine
    """
    from firstlight.stages import tokenizer as stage

    print_result(stage.show(path), as_json, _print_facts)


def encode(
    path: PathArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads standard input.")],
    as_json: JsonOption = False,
) -> None:
    """Turn text into ids.

    Example: firstlight tokenizer encode runs/mine "Hello, world"
    """
    from firstlight.stages import tokenizer as stage

    result = stage.encode(path, read_stdin() if text == "-" else text)
    print_result(result, as_json, lambda result: print(" ".join(map(str, result.ids))))


def decode(
    path: PathArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The ids; - reads standard input.")],
) -> None:
    """Turn ids into text.

    Example: firstlight tokenizer decode runs/mine 15496 11 995
    """
    from firstlight.stages import tokenizer as stage

    words = (read_stdin() if ids == ["-"] else " ".join(ids)).replace(",", " ").split()
    numbers = []
    for word in words:
        if not word.isdecimal() or len(word) > _LONGEST_ID:
            raise UsageError("is no id", where=word[:40], expected="whole numbers, such as 15496 11 995")
        numbers.append(int(word))
    print(stage.decode(path, numbers))


def compare(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Tokenizers.")],
    text: Annotated[list[str], typer.Option("--text", help="File, folder or named corpus to cut; may be repeated.")],
    as_json: JsonOption = False,
) -> None:
    """Cut the same text with several tokenizers.

    Example: firstlight tokenizer compare runs/a runs/b --text mytext.txt
    """
    from firstlight.stages import tokenizer as stage

    print_result({"tokenizers": stage.compare(paths, text)}, as_json, _print_comparison)


def _print_comparison(result: dict[str, Any]) -> None:
    rows = [
        (
            one.path,
            one.kind,
            f"{one.vocab_size:,}",
            f"{one.tokens:,}",
            f"{one.bytes_per_token:.3f}",
            f"{one.characters_per_token:.3f}",
            f"{one.unknown:,}",
        )
        for one in result["tokenizers"]
    ]
    columns = ("tokenizer", "kind", "vocabulary", "tokens", "bytes/token", "characters/token", "unknown")
    print_table(columns, rows, n_text=2)


def _print_facts(facts: "TokenizerFacts") -> None:
    unknown = "none: every text has ids" if facts.unk_id is None else f"id {facts.unk_id}"
    print_pairs(
        {
            "path": facts.path,
            "kind": facts.kind,
            "vocabulary": f"{facts.vocab_size:,}",
            "end of text": f"{facts.eot}, id {facts.eot_id}",
            "unknown": unknown,
            "round trip": "exact" if facts.lossless else "not exact",
            "hash": facts.hash,
            "longest": "  ".join(repr(t if len(t) <= _SHOWN else f"{t[:_SHOWN]}…") for t in facts.longest),
        }
    )
