"""The commands ``data prepare``, ``inspect``, ``verify`` and ``stats``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight.cli.arguments import ValidOption, corpus_settings, split_arguments
from firstlight.cli.output import JsonOption, print_pairs, print_result, print_table
from firstlight.errors import StoreError, UsageError, escape
from firstlight.shell import command_line, unused_path

if TYPE_CHECKING:
    from firstlight.stages.data import InspectResult, PrepareResult, VerifyResult

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A token store, or a run directory.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Prepare, inspect and verify token stores.\n\n"
        "Example: firstlight data prepare mytext.txt --out stores/mine",
    )
    for command in (prepare, inspect, verify, stats):
        group.command()(command)
    app.add_typer(group, name="data")


def prepare(
    out: Annotated[Path, typer.Option("--out", help="Folder of the store.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS|KEY=VALUE",
            help="Files, folders, globs, named corpora, - for standard input; and settings of the tables corpus, "
            "tokenizer and data.",
            show_default=False,
        ),
    ] = None,
    valid: ValidOption = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Use this tokenizer; by default one is trained.", show_default=False),
    ] = None,
    text_field: Annotated[
        str | None, typer.Option("--text-field", help="Field of a record that holds its text.", show_default=False)
    ] = None,
    on_bad_bytes: Annotated[
        str | None,
        typer.Option("--on-bad-bytes", help="Bytes that are not UTF-8: error, replace or skip.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a corpus as a token store.

    Example: firstlight data prepare books/*.txt --out stores/books tokenizer.vocab_size=4096
    """
    from firstlight.stages import data as stage
    from firstlight.stages.validation_text import no_corpus_before

    corpus, overrides = split_arguments(arguments)
    if not corpus:
        raise (
            no_corpus_before(valid)
            if valid
            else UsageError(
                "missing argument: no corpus",
                fix=f"Name files, folders or a named corpus. Help: {command_line('data', 'prepare', '--help')}",
            )
        )
    overrides += corpus_settings(text_field, on_bad_bytes)
    result = stage.prepare(corpus, out=out, valid=valid or (), tokenizer_path=tokenizer, overrides=overrides)
    print_result(result, as_json, _print_prepared)


def _print_prepared(result: "PrepareResult") -> None:
    tokens = f"{result.train_tokens:,} training and {result.valid_tokens:,} validation tokens"
    print(f"{result.store}: {tokens}, vocabulary {result.vocab_size:,}")
    for reason, count in result.tally.dropped.items():
        print(f"dropped: {count:,} documents, {reason}")
    out = unused_path(Path("runs") / result.store.name)
    print(f"Train on it: {command_line('pretrain', result.store, '--out', out)}")


def inspect(
    store: StoreArgument,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Number of first tokens to show.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Show the contents of a token store.

    Example: firstlight data inspect stores/books
    """
    from firstlight.stages import data as stage

    print_result(stage.inspect(store, n_tokens=tokens), as_json, _print_store)


def _print_store(result: "InspectResult") -> None:
    print_pairs(
        {
            "documents": f"{result.documents['train']:,} train, {result.documents['valid']:,} valid",
            "tokens": f"{result.tokens['train']:,} train, {result.tokens['valid']:,} valid ({result.dtype})",
            "unknown tokens": ", ".join(
                f"{'not recorded' if n is None else f'{n:,}'} {name}" for name, n in result.unk_tokens.items()
            ),
            "vocabulary": f"{result.vocab_size:,}",
            "tokenizer": result.tokenizer,
            "fingerprint": result.fingerprint,
            "sources": ", ".join(result.sources),
            "validation": ", ".join(result.valid_sources) or "a part of the sources",
        }
    )
    if result.first_text is not None:
        print(f"\nfirst tokens:\n{result.first_text}")
    else:
        print(f"\nfirst tokens (the store's tokenizer was not found): {' '.join(map(str, result.first_ids))}")


def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Check every byte of a store or a run.

    Of a run: its token store, tokenizer and checkpoints. Exits with 1 if there is any problem.

    Example: firstlight data verify runs/mine
    """
    from firstlight.stages import data as stage

    result = stage.verify(store)
    print_result(result, as_json, lambda result: _print_verified(result, store))
    if result.problems:
        raise typer.Exit(1)


def _print_verified(result: "VerifyResult", store: str) -> None:
    if not result.problems:
        print(f"no problems: {', '.join(map(str, result.checked))}")
        return
    if len(result.problems) == 1:
        raise StoreError(result.problems[0])
    for problem in result.problems:
        print(escape(problem))
    raise StoreError(f"{len(result.problems)} problems found", where=store)


def stats(
    store: StoreArgument,
    top: Annotated[int, typer.Option("--top", min=1, help="Most frequent tokens to show.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show statistics of a token store.

    Document lengths, bytes per token, the most frequent tokens.

    Example: firstlight data stats stores/books --top 10
    """
    from firstlight.stages import data as stage

    print_result(stage.stats(store, top=top), as_json, _print_stats)


def _print_stats(result: dict[str, Any]) -> None:
    counts = ("documents", "tokens", "bytes", "unk_tokens")
    rows = [
        (split, *(f"{result[split][name]:,}" if name in result[split] else "–" for name in counts))
        for split in ("train", "valid")
    ]
    print_table(("split", *(name.replace("unk_", "unknown ") for name in counts)), rows)
    used = f"{result['ids_used']:,} of {result['vocab_size']:,} ids are used"
    print(f"\n{result['bytes_per_token']:.2f} bytes per token; {used}")
    print(
        "tokens per document: " + ", ".join(f"{name} {value:,.0f}" for name, value in result["document_tokens"].items())
    )
    print()
    total = max(result["train"]["tokens"], 1)
    rows = [
        (
            r["id"],
            "" if r["token"] is None else repr(r["token"]),
            f"{r['count']:,}",
            f"{100 * r['count'] / total:.2f} %",
        )
        for r in result["top"]
    ]
    print_table(("id", "token", "count", "ratio"), rows, n_text=2)
