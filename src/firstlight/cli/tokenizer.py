"""The commands ``tokenizer train``, ``import``, ``show``, ``encode``, ``decode`` and ``compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight.cli import vectors
from firstlight.cli.arguments import OverwriteOption, read_stdin, split_arguments
from firstlight.cli.output import JsonOption, print_pairs, print_result, print_table
from firstlight.errors import UsageError, escape

if TYPE_CHECKING:
    from firstlight.stages.tokenizer import TokenizerSummary
    from firstlight.tokenizer import TextCoverage

_MAX_ID_DIGITS = 18  # more than any vocabulary needs
_MAX_SHOWN = 32  # characters of a long token

PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="A tokenizer.json, or a folder, run, store or model that has row.")
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for tokenizer.json.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Train, import, inspect and compare tokenizers.\n\nExample: firstlight tokenizer show runs/mine",
    )
    group.command("train")(train)
    group.command("import")(import_)
    for command in (show, encode, decode, compare):
        group.command()(command)
    vectors.register(group)
    app.add_typer(group, name="tokenizer")


def train(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS|KEY=VALUE",
            help="Files, folders, globs, named corpora, - for standard input; and settings of the tables corpus and "
            "tokenizer.",
        ),
    ],
    out: OutOption,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a tokenizer on a corpus.

    Example: firstlight tokenizer train books/*.txt --out tokenizers/books tokenizer.vocab_size=4096
    """
    from firstlight.stages import tokenizer as stage

    corpus, overrides = split_arguments(arguments)
    if not corpus:
        raise UsageError("no corpus", fix="Name files, folders or a named corpus.")
    print_result(stage.train(corpus, out=out, overrides=overrides, overwrite=overwrite), as_json, _print_summary)


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder or file of GPT-1, GPT-2, tiktoken, SentencePiece, llama2.c, llm.c, or a tokenizer.json.",
        ),
    ],
    out: OutOption,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a published tokenizer as tokenizer.json.

    Example: firstlight tokenizer import gpt2/ --out tokenizers/gpt2
    """
    from firstlight.stages import tokenizer as stage

    print_result(stage.import_(source, out=out, overwrite=overwrite), as_json, _print_summary)


def show(
    path: PathArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the table corpus, for --text.", show_default=False),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="File, folder or named corpus whose characters are counted; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the properties of a tokenizer.

    Of a text, and of the training text of a run, it shows how many characters are within one token, how many take
    several, and what is unknown.

    Example: firstlight tokenizer show runs/mine --text novel.txt
    """
    from firstlight.stages import tokenizer as stage

    print_result(stage.show(path, text or (), overrides=overrides or ()), as_json, _print_summary)


def encode(
    path: PathArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads standard input.")],
    as_json: JsonOption = False,
) -> None:
    """Encode text to ids.

    Example: firstlight tokenizer encode runs/mine "Hello, world"
    """
    from firstlight.stages import tokenizer as stage

    result = stage.encode(path, read_stdin() if text == "-" else text)
    print_result(result, as_json, lambda result: print(" ".join(map(str, result.ids))))


def decode(
    path: PathArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The ids; - reads standard input.")],
) -> None:
    """Decode ids to text.

    Example: firstlight tokenizer decode runs/mine 15496 11 995
    """
    from firstlight.stages import tokenizer as stage

    words = (read_stdin() if ids == ["-"] else " ".join(ids)).replace(",", " ").split()
    numbers = []
    for word in words:
        if not word.isdecimal() or len(word) > _MAX_ID_DIGITS:
            raise UsageError("not an id", where=word[:40], expected="whole numbers, such as 15496 11 995")
        numbers.append(int(word))
    print(stage.decode(path, numbers))


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="PATH|KEY=VALUE", help="Tokenizers; and settings of the table corpus."),
    ],
    text: Annotated[list[str], typer.Option("--text", help="File, folder or named corpus to encode; may be repeated.")],
    as_json: JsonOption = False,
) -> None:
    """Encode the same text with several tokenizers.

    Example: firstlight tokenizer compare runs/a runs/b --text mytext.txt
    """
    from firstlight.stages import tokenizer as stage

    paths, overrides = split_arguments(arguments)
    found = stage.compare(paths, text, overrides=overrides)
    print_result({"tokenizers": [row.to_json() if as_json else row for row in found]}, as_json, _print_comparison)


def _print_comparison(result: dict[str, Any]) -> None:
    rows = [
        (
            row.path,
            row.kind,
            f"{row.vocab_size:,}",
            f"{row.tokens:,}",
            f"{row.bytes_per_token:.3f}",
            f"{row.characters_per_token:.3f}",
            f"{row.unknown.count:,}",
        )
        for row in result["tokenizers"]
    ]
    columns = ("tokenizer", "kind", "vocabulary", "tokens", "bytes/token", "characters/token", "unknown")
    print_table(columns, rows, n_text=2)


def _print_summary(summary: "TokenizerSummary") -> None:
    n = summary.tokens
    unknown = "becomes the unknown token" if summary.unk_id is None else f"becomes id {summary.unk_id}"
    unknown = f"text without a token {unknown}" if summary.has_unknown else "none: every text can be encoded"
    print_pairs(
        {
            "path": summary.path,
            "kind": summary.kind,
            "vocabulary": f"{summary.vocab_size:,}",
            "end of text": f"{summary.eot}, id {summary.eot_id}",
            "unknown": unknown,
            "round trip": "exact" if summary.lossless else "not exact",
            "hash": summary.hash,
            "longest": "  ".join(repr(t if len(t) <= _MAX_SHOWN else f"{t[:_MAX_SHOWN]}…") for t in summary.longest),
            "tokens": f"{n.single:,} of one character ({n.single_non_ascii:,} not ASCII), {n.several:,} of several, "
            f"{n.partial:,} of a part of one, {n.special:,} special",
        }
    )
    if summary.texts:
        print()
        print_table(_COVERAGE, [row for text in summary.texts for row in _coverage_rows(text)])


_COVERAGE = ("text", "characters", "in one token", "in several", "unknown tokens")


def _coverage_rows(text: "TextCoverage") -> list[tuple[str, ...]]:
    """Return a row of all characters of a text, and of those that are not ASCII where there are some of both."""
    rows = [(text.name, text.whole, text.split, f"{text.unk_tokens:,}")]
    others = text.non_ascii_whole + text.non_ascii_split
    if 0 < others < text.whole + text.split:
        rows.append((f"{text.name}, not ASCII", text.non_ascii_whole, text.non_ascii_split, ""))
    return [
        (escape(name), f"{whole + split:,}", _share(whole, whole + split), _share(split, whole + split), unknown)
        for name, whole, split, unknown in rows
    ]


def _share(n: int, total: int) -> str:
    return f"{n:,} ({100 * n / total:.1f} %)" if total else "0"
