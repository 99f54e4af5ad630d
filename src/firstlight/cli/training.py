"""The commands that train: pretrain, quickstart, verify-resume."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

CorpusArgument = Annotated[list[str] | None, typer.Argument(help="Files, folders, globs, named corpora, - ; one store; one RUN.toml; and key=value settings.", show_default=False)]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run directory.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("pretrain")(pretrain)
    app.command("quickstart")(quickstart)
    app.command("verify-resume")(verify_resume)


def split_words(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Tell inputs from ``key=value`` words; a file that exists is an input whatever its name."""
    inputs, settings = [], []
    for word in words or []:
        key = word.partition("=")[0]
        is_setting = "=" in word and not Path(word).exists() and key.replace(".", "").replace("_", "").isalnum()
        (settings if is_setting else inputs).append(word)
    return inputs, settings


def pretrain(
    words: CorpusArgument = None,
    out: OutOption = None,
    preset: Annotated[str | None, typer.Option(help="A preset's name.", show_default=False)] = None,
    start_from: Annotated[str | None, typer.Option("--from", help="A model whose weights to start from.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run; start where there is none.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan; train nothing.")] = False,
    text_field: Annotated[str | None, typer.Option(help="Field of a record that holds its text.", show_default=False)] = None,
    on_bad_bytes: Annotated[str | None, typer.Option(help="error, replace or skip.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Corpus to model.

    Example: firstlight pretrain mytext.txt --out runs/mine model.n_layer=4 train.steps=500
    """
    from firstlight.stages import pretrain as stage

    inputs, overrides = split_words(words)
    overrides += [f"corpus.text_field={text_field!r}"] if text_field else []
    overrides += [f"corpus.on_bad_bytes={on_bad_bytes}"] if on_bad_bytes else []
    if dry_run:
        plan = stage.dry_run(inputs, out=out, preset=preset, start_from=start_from, overrides=overrides)
        print(json.dumps(plan.to_json()) if as_json else _plan_text(plan.to_json()))
        return
    result = stage.pretrain(inputs, out=out, preset=preset, start_from=start_from, resume=resume, overrides=overrides)
    _tell(result, as_json)


def quickstart(
    words: CorpusArgument = None, out: OutOption = None, as_json: JsonOption = False
) -> None:
    """The whole way on the embedded corpus: tokenizer, token store, training, evaluation, samples, report.

    Example: firstlight quickstart
    """
    from firstlight.stages.quickstart import quickstart as stage

    inputs, overrides = split_words(words)
    result = stage(inputs, out=out or Path("runs/quickstart"), overrides=overrides)
    _tell(result, as_json)
    if not as_json:
        samples = [json.loads(line) for line in (result.run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
        if samples:
            print(f"\nWhat it writes after {samples[-1]['step']} steps:\n\n{samples[-1]['text']}")
        print(f"\nTry: firstlight generate {result.run} \"The \"")


def verify_resume(
    settings: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The settings of the run to prove.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)] = None,
    steps: Annotated[int, typer.Option(min=2, help="Length of both runs.")] = 20,
    stop_at: Annotated[int, typer.Option(min=1, help="Step after which the second run is stopped.")] = 9,
    as_json: JsonOption = False,
) -> None:
    """Prove on this machine that stop and resume equals no stop, bit for bit.

    Example: firstlight verify-resume runs/mine/run.toml
    """
    from dataclasses import asdict

    from firstlight.stages.verify_resume import verify_resume as stage

    proof = stage(settings, steps=steps, stop_at=stop_at, overrides=words or [])
    if as_json:
        print(json.dumps(asdict(proof)))
    elif proof.equal:
        print(f"equal: {proof.compared} tensors and {steps} losses are the same bit for bit, stopped at step {stop_at} or not")
    else:
        print(f"not equal: {proof.difference}")
    if not proof.equal:
        raise typer.Exit(1)


def _tell(result: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.to_json()))
        return
    how = f"stopped by {result.stopped_by}" if result.finished else f"interrupted by {result.stopped_by}, saved"
    print(f"{result.run}: {how} at step {result.step} after {result.seconds:,.1f} s, {result.tokens:,} tokens")
    if result.valid_loss is not None:
        bits = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.4f} bits per byte"
        print(f"valid loss {result.valid_loss:.4f}{bits}")
    if not result.finished:
        print(f"Go on with: firstlight pretrain {result.run} --resume")
    if result.report is not None:
        print(f"report: {result.report}")


def _plan_text(plan: dict[str, Any]) -> str:
    def count(value: float | None) -> str:
        return "open" if value is None else f"{value:,.0f}"

    def seconds(value: float | None) -> str:
        return "open" if value is None else f"{value:,.1f} s" if value < 120 else f"{value / 60:,.1f} min" if value < 7200 else f"{value / 3600:,.1f} h"

    epochs = "open" if plan["epochs"] is None else f"{plan['epochs']:.2f}"
    rows = [
        ("parameters", f"{count(plan['parameters'])} ({count(plan['embedding_parameters'])} of them embeddings and head)"),
        ("training text", f"{count(plan['train_tokens'])} tokens; valid split {count(plan['valid_tokens'])}"),
        ("updates", f"{count(plan['steps'])} of {count(plan['step_tokens'])} tokens: {epochs} epochs"),
        ("memory", f"about {plan['memory_bytes'] / 1e6:,.0f} MB for weights, gradients, optimiser and activations"),
        ("time", f"{seconds(plan['total_seconds'])} at {seconds(plan['step_seconds'])} a step, measured here"),
        ("disk", f"{plan['disk_bytes'] / 1e6:,.0f} MB for checkpoints and token store"),
        ("FLOPs", "open" if plan["total_flops"] is None else f"{plan['total_flops']:.3g}"),
    ]
    return "\n".join(f"{name:>14}  {value}" for name, value in rows) + "\nNothing was trained."
