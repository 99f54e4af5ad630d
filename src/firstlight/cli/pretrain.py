"""The commands ``pretrain``, ``quickstart`` and ``verify-resume``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight import progress
from firstlight.cli.arguments import (
    RestartOption,
    ValidOption,
    check_resume,
    complete_preset,
    corpus_settings,
    split_arguments,
)
from firstlight.cli.output import (
    JsonOption,
    format_bytes,
    format_duration,
    format_stop_reason,
    print_evaluations,
    print_pairs,
    print_report,
    print_result,
    print_run_result,
)
from firstlight.errors import UsageError
from firstlight.shell import command_line, resume_command

if TYPE_CHECKING:
    from firstlight.planning import Plan
    from firstlight.stages.pretrain import PretrainResult
    from firstlight.stages.verify_resume import VerifyResumeResult

_PLAN_WIDTH = len("parameters")

CorpusArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CORPUS|KEY=VALUE",
        help="Training data: files, folders, globs, named corpora or - for standard input (text, ids or images); a "
        "token store; or a RUN.toml. KEY=VALUE overrides a setting, such as optim.lr=3e-4; firstlight settings lists "
        "them.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Run directory to write; runs/NAME by default.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("pretrain")(pretrain)
    app.command("quickstart")(quickstart)
    app.command("verify-resume")(verify_resume)


def pretrain(  # noqa: PLR0913 - an argument an option
    arguments: CorpusArgument = None,
    valid: ValidOption = None,
    out: OutOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Name of a preset; firstlight presets lists them.", show_default=False, autocompletion=complete_preset
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Model whose weights to start from: a run, checkpoint, Hugging Face directory or hub name.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the latest checkpoint; start the run if there is none.")
    ] = False,
    restart: RestartOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check settings and data, print the plan, and exit without training.")
    ] = False,
    text_field: Annotated[
        str | None, typer.Option(help="Field of JSON, CSV and Parquet records that holds the text.", show_default=False)
    ] = None,
    on_bad_bytes: Annotated[
        str | None, typer.Option(help="Bytes that are not valid UTF-8: error, replace or skip.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pre-train a GPT on a corpus.

    The run directory holds settings, tokenizer, token store, checkpoints, metrics and report.

    Example: firstlight pretrain mytext.txt --out runs/mine model.n_layer=4 train.steps=500
    """
    inputs, settings = split_arguments(arguments)
    settings += corpus_settings(text_field, on_bad_bytes)
    if dry_run and (resume or restart):
        given = "--resume" if resume else "--restart"
        raise UsageError("a dry run cannot be resumed", where=f"--dry-run {given}", fix="Remove one of them.")
    check_resume(resume, restart)
    with progress.task("load PyTorch"):
        from firstlight.stages import pretrain as stage

    if dry_run:
        plan = stage.dry_run(
            inputs,
            out=out,
            valid=valid or (),
            preset=preset,
            init_from=init_from,
            overrides=settings,
            on_estimate=lambda plan: None if as_json else _print_estimate(plan),
        )
        print_result(plan, as_json, _print_time)
        return
    result = stage.pretrain(
        inputs,
        out=out,
        valid=valid or (),
        preset=preset,
        init_from=init_from,
        resume=resume,
        restart=restart,
        overrides=settings,
    )
    print_run_result(result, as_json, _print_trained)


def quickstart(arguments: CorpusArgument = None, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Pre-train a small GPT in minutes, without your own data.

    Trains on Python's documentation: tokenizer, token store, training, evaluation, samples, report. The run directory
    is runs/quickstart by default; running the command again resumes an interrupted run.

    Example: firstlight quickstart
    """
    with progress.task("load PyTorch"):
        from firstlight.stages.quickstart import quickstart as stage

    inputs, settings = split_arguments(arguments)
    result = stage(inputs, out=out or Path("runs/quickstart"), overrides=settings)
    print_run_result(result, as_json, _print_trained)
    if as_json:
        return
    sample = _last_sample(result.run / "samples.jsonl")
    if sample is not None:
        print(f"\nSample after {sample['step']} steps:\n\n{sample['text']}")
    print(f"\nTry: {command_line('generate', result.run, 'The ')}")


def _last_sample(path: Path) -> dict[str, Any] | None:
    from firstlight.files.json_lines import JsonLines

    if not path.is_file():
        return None
    last = None
    with path.open("rb") as file:
        for _, sample in JsonLines(file):
            if "step" in sample and "text" in sample:
                last = sample
    return last


def verify_resume(
    settings: Annotated[
        Path, typer.Argument(metavar="RUN.toml", help="Settings of the run to check, or its directory.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to override.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Number of steps of both runs.")] = 20,
    stop_at: Annotated[int, typer.Option(min=1, help="Step after which the second run is stopped and resumed.")] = 9,
    as_json: JsonOption = False,
) -> None:
    """Check that resuming is bit-identical on this machine.

    Trains a few steps with and without an interruption and compares every tensor. Exits with 1 if any bit differs.

    Example: firstlight verify-resume runs/mine/run.toml
    """
    if stop_at >= steps:
        raise UsageError(
            "must be before the last step", where="--stop-at", found=stop_at, expected=f"below --steps {steps}"
        )
    with progress.task("load PyTorch"):
        from firstlight.stages.verify_resume import verify_resume as stage

    file = settings / "run.toml" if (settings / "run.toml").is_file() else settings
    proof = stage(file, steps=steps, stop_at=stop_at, overrides=overrides or [])
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
    how = "finished" if result.finished else f"{result.how_it_ended}, checkpoint saved"
    amount = f"{result.seconds:,.1f} s, {result.tokens:,} tokens"
    print(f"{result.run}: {how} at step {result.step} ({format_stop_reason(result.stopped_by)}; {amount})")
    units = {unit: getattr(result, f"bits_per_{unit}") for unit in ("byte", "character", "token", "dim")}
    bits = "".join(f", {value:.4f} bits per {unit}" for unit, value in units.items() if value is not None)
    print_evaluations(result, "generate uses", bits)
    if not result.finished:
        print(f"Resume with: {resume_command('pretrain', result.run)}")
    print_report(result)


def _print_estimate(plan: "Plan") -> None:
    """Print what is known before anything is timed."""
    epochs = "unknown" if plan.epochs is None else f"{plan.epochs:.2f}"
    rows = {
        "parameters": f"{plan.parameters:,} ({plan.embedding_parameters:,} in embeddings and head)",
        "data": f"{plan.train_tokens:,} training tokens, {plan.valid_tokens:,} validation tokens",
        "steps": f"{_count(plan.steps)} of {plan.step_tokens:,} tokens, {epochs} epochs",
        "memory": f"about {format_bytes(plan.memory_bytes)}: weights, gradients, optimizer state, activations",
        "disk": f"{format_bytes(plan.disk_bytes)} for checkpoints and token store",
        "FLOPs": "unknown" if plan.total_flops is None else f"{plan.total_flops:.3g}",
    }
    print_pairs(rows, width=_PLAN_WIDTH)
    sys.stdout.flush()


def _print_time(plan: "Plan") -> None:
    if plan.timed_tokens is None:
        how = "the time of a step was not measured"
    elif plan.timed_tokens == plan.step_tokens:
        how = f"{format_duration(plan.step_seconds)} per step, measured on this machine"
    else:
        part = f"{plan.timed_tokens:,} of the {plan.step_tokens:,} tokens of a step, timed on this machine"
        how = f"{format_duration(plan.step_seconds)} per step, scaled from {part}"
    print_pairs({"time": f"{format_duration(plan.total_seconds)}, {how}"}, width=_PLAN_WIDTH)
    print("Dry run: nothing was trained.")


def _count(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"
