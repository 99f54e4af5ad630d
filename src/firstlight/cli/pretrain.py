"""The commands that train: pretrain, quickstart, verify-resume."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight.cli.arguments import corpus_settings, split_arguments
from firstlight.cli.output import JsonOption, format_bytes, format_duration, print_pairs, print_result
from firstlight.errors import UsageError

if TYPE_CHECKING:
    from firstlight.stages.pretrain import PretrainResult
    from firstlight.stages.verify_resume import VerifyResumeResult

CorpusArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CORPUS|KEY=VALUE",
        help="Files, folders, globs, named corpora, - for standard input, of text, ids or images; or one token store, "
        "or one RUN.toml. "
        "KEY=VALUE words are settings, named as in a run's run.toml.",
        show_default=False,
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run directory.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("pretrain")(pretrain)
    app.command("quickstart")(quickstart)
    app.command("verify-resume")(verify_resume)


def pretrain(
    words: CorpusArgument = None,
    out: OutOption = None,
    preset: Annotated[
        str | None, typer.Option(help="A preset's name, such as shakespeare-char-cpu.", show_default=False)
    ] = None,
    init_from: Annotated[
        str | None, typer.Option("--from", help="A model whose weights to start from.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run; start where there is none.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; train nothing.")
    ] = False,
    text_field: Annotated[
        str | None, typer.Option(help="Field of a record that holds its text.", show_default=False)
    ] = None,
    on_bad_bytes: Annotated[
        str | None, typer.Option(help="Bytes that are no UTF-8: error, replace or skip.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a GPT on a corpus.

    The run directory holds its settings, tokenizer, token store, checkpoints, figures and report.

    Example: firstlight pretrain mytext.txt --out runs/mine model.n_layer=4 train.steps=500
    """
    inputs, settings = split_arguments(words)
    settings += corpus_settings(text_field, on_bad_bytes)
    if dry_run and resume:
        raise UsageError("a dry run goes on with nothing", where="--dry-run --resume", fix="Leave out one of them.")
    from firstlight.stages import pretrain as stage

    if dry_run:
        plan = stage.dry_run(inputs, out=out, preset=preset, init_from=init_from, overrides=settings).to_json()
        print_result(plan, as_json, _print_plan)
        return
    result = stage.pretrain(inputs, out=out, preset=preset, init_from=init_from, resume=resume, overrides=settings)
    print_result(result, as_json, _print_trained)


def quickstart(words: CorpusArgument = None, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Train a small GPT on a text that every Python has.

    The whole way in minutes: tokenizer, token store, training, evaluation, samples, report. The run is
    runs/quickstart; the same command goes on where it was cut off.

    Example: firstlight quickstart
    """
    from firstlight.stages.quickstart import quickstart as stage

    inputs, settings = split_arguments(words)
    result = stage(inputs, out=out or Path("runs/quickstart"), overrides=settings)
    print_result(result, as_json, _print_trained)
    if as_json:
        return
    file = result.run / "samples.jsonl"
    samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    if samples:
        print(f"\nWhat it writes after {samples[-1]['step']} steps:\n\n{samples[-1]['text']}")
    print(f'\nTry: firstlight generate {shlex.quote(str(result.run))} "The "')


def verify_resume(
    settings: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The settings of the run to prove.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Length of both runs.")] = 20,
    stop_at: Annotated[int, typer.Option(min=1, help="Step after which the second run is stopped.")] = 9,
    as_json: JsonOption = False,
) -> None:
    """Prove that stop and resume equals no stop.

    Trains a few steps on this machine, unbroken and broken, and compares every bit; exit 1 where any differs.

    Example: firstlight verify-resume runs/mine/run.toml
    """
    if stop_at >= steps:
        raise UsageError("must lie before the end", where="--stop-at", found=stop_at, expected=f"below --steps {steps}")
    from firstlight.stages.verify_resume import verify_resume as stage

    file = settings / "run.toml" if (settings / "run.toml").is_file() else settings
    proof = stage(file, steps=steps, stop_at=stop_at, overrides=words or [])
    print_result(proof, as_json, _print_proof)
    if not proof.equal:
        raise typer.Exit(1)


def _print_proof(proof: "VerifyResumeResult") -> None:
    if proof.equal:
        runs = f"stopped at step {proof.stopped_at} and uninterrupted"
        print(f"bit-identical: {proof.compared} tensors and {proof.steps} losses, {runs}")
    else:
        print(f"different: {proof.difference}")


def _print_trained(result: "PretrainResult") -> None:
    how = f"stopped by {result.stopped_by}" if result.finished else f"interrupted by {result.stopped_by}, saved"
    print(f"{result.run}: {how} at step {result.step} after {result.seconds:,.1f} s, {result.tokens:,} tokens")
    if result.valid_loss is not None:
        units = {unit: getattr(result, f"bits_per_{unit}") for unit in ("byte", "token", "dim")}
        bits = "".join(f", {value:.4f} bits per {unit}" for unit, value in units.items() if value is not None)
        print(f"valid loss {result.valid_loss:.4f}{bits}")
    if not result.finished:
        print(f"Go on with: firstlight pretrain {shlex.quote(str(result.run))} --resume")
    if result.report is not None:
        print(f"report: {result.report}")


def _print_plan(plan: dict[str, Any]) -> None:
    epochs = "open" if plan["epochs"] is None else f"{plan['epochs']:.2f}"
    total, step = format_duration(plan["total_seconds"]), format_duration(plan["step_seconds"])
    print_pairs(
        {
            "parameters": f"{plan['parameters']:,} ({plan['embedding_parameters']:,} of them embeddings and head)",
            "training text": f"{plan['train_tokens']:,} tokens; valid split {plan['valid_tokens']:,}",
            "updates": f"{_count(plan['steps'])} of {plan['step_tokens']:,} tokens: {epochs} epochs",
            "memory": f"about {format_bytes(plan['memory_bytes'])} for weights, gradients, optimiser and activations",
            "time": f"{total} at {step} a step, measured here",
            "disk": f"{format_bytes(plan['disk_bytes'])} for checkpoints and token store",
            "FLOPs": "open" if plan["total_flops"] is None else f"{plan['total_flops']:.3g}",
        }
    )
    print("Nothing was trained.")


def _count(value: float | None) -> str:
    return "open" if value is None else f"{value:,.0f}"
