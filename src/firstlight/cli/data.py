"""The commands ``data prepare``, ``inspect``, ``verify`` and ``stats``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight.cli.arguments import corpus_settings, split_arguments
from firstlight.cli.output import JsonOption, print_pairs, print_result, print_table
from firstlight.errors import StoreError, UsageError

if TYPE_CHECKING:
    from firstlight.stages.data import InspectResult, PrepareResult, VerifyResult

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A token store, or a run directory.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Make token stores, look into them, check them.\n\n"
        "Example: firstlight data prepare mytext.txt --out stores/mine",
    )
    for command in (prepare, inspect, verify, stats):
        group.command()(command)
    app.add_typer(group, name="data")


def prepare(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS|KEY=VALUE",
            help="Files, folders, globs, named corpora, - for standard input; and settings of the tables corpus, "
            "tokenizer and data.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the store.")],
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Use this tokenizer; by default one is trained.", show_default=False),
    ] = None,
    text_field: Annotated[
        str | None, typer.Option("--text-field", help="Field of a record that holds its text.", show_default=False)
    ] = None,
    on_bad_bytes: Annotated[
        str | None,
        typer.Option("--on-bad-bytes", help="Bytes that are no UTF-8: error, replace or skip.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a corpus as a token store.

    Example: firstlight data prepare books/*.txt --out stores/books tokenizer.vocab_size=4096
    """
    from firstlight.stages import data as stage

    inputs, settings = split_arguments(words)
    if not inputs:
        raise UsageError("no corpus", fix="Name files, folders or a named corpus.")
    settings += corpus_settings(text_field, on_bad_bytes)
    result = stage.prepare(inputs, out=out, tokenizer_path=tokenizer, overrides=settings)
    print_result(result, as_json, _print_prepared)


def _print_prepared(result: "PrepareResult") -> None:
    tokens = f"{result.train_tokens:,} training and {result.valid_tokens:,} valid tokens"
    print(f"{result.store}: {tokens}, vocabulary {result.vocab_size:,}")
    for reason, count in result.tally.dropped.items():
        print(f"left out: {count:,} documents, {reason}")
    print(f"Train on it: firstlight pretrain {shlex.quote(str(result.store))} --out runs/NAME")


def inspect(
    store: StoreArgument,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Tokens to show from the beginning.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Show what lies in a token store.

    Example: firstlight data inspect stores/books
    """
    from firstlight.stages import data as stage

    print_result(stage.inspect(store, n_tokens=tokens), as_json, _print_store)


def _print_store(found: "InspectResult") -> None:
    print_pairs(
        {
            "documents": f"{found.documents['train']:,} train, {found.documents['valid']:,} valid",
            "tokens": f"{found.tokens['train']:,} train, {found.tokens['valid']:,} valid ({found.dtype})",
            "vocabulary": f"{found.vocab_size:,}",
            "tokenizer": found.tokenizer,
            "fingerprint": found.fingerprint,
            "sources": ", ".join(found.sources),
        }
    )
    if found.first_text is not None:
        print(f"\nIt begins:\n{found.first_text}")
    else:
        print(f"\nIt begins (no tokenizer of this store lies beside it): {' '.join(map(str, found.first_ids))}")


def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Check every byte of a store or a run.

    Of a run: its token store, its tokenizer and its checkpoints. Exit 1 where anything is wrong.

    Example: firstlight data verify runs/mine
    """
    from firstlight.stages import data as stage

    result = stage.verify(store)
    print_result(result, as_json, lambda result: _print_verified(result, store))
    if result.problems:
        raise typer.Exit(1)


def _print_verified(result: "VerifyResult", store: str) -> None:
    if not result.problems:
        print(f"whole: {', '.join(map(str, result.checked))}")
        return
    if len(result.problems) == 1:
        raise StoreError(result.problems[0])
    for problem in result.problems:
        print(problem)
    raise StoreError(f"{len(result.problems)} problems found", where=store)


def stats(
    store: StoreArgument,
    top: Annotated[int, typer.Option("--top", min=1, help="Most frequent tokens to show.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Count what lies in a token store.

    Lengths of documents, bytes a token, the most frequent tokens.

    Example: firstlight data stats stores/books --top 10
    """
    from firstlight.stages import data as stage

    print_result(stage.stats(store, top=top), as_json, _print_stats)


def _print_stats(found: dict[str, Any]) -> None:
    counts = ("documents", "tokens", "bytes")
    rows = [(side, *(f"{found[side][name]:,}" for name in counts)) for side in ("train", "valid")]
    print_table(("split", *counts), rows)
    print(f"\n{found['bytes_per_token']:.2f} bytes a token; {found['ids_used']:,} of {found['vocab_size']:,} ids occur")
    print("tokens a document: " + ", ".join(f"{name} {value:,.0f}" for name, value in found["document_tokens"].items()))
    print()
    total = max(found["train"]["tokens"], 1)
    rows = [
        (
            r["id"],
            "" if r["token"] is None else repr(r["token"]),
            f"{r['count']:,}",
            f"{100 * r['count'] / total:.2f} %",
        )
        for r in found["top"]
    ]
    print_table(("id", "token", "count", "share"), rows, n_text=2)
