"""The commands finetune, predict, probe and transfer."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight.cli.arguments import named_as_options, split_words
from firstlight.cli.output import JsonOption, print_result, print_table
from firstlight.config import parse_overrides
from firstlight.errors import UsageError

if TYPE_CHECKING:
    from firstlight.finetuning.probe import ProbeResult
    from firstlight.stages.finetune import FinetuneResult
    from firstlight.stages.transfer import TransferResult


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(finetune)
    app.command()(predict)
    app.command()(probe)
    app.command()(transfer)


def finetune(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN TASK.toml… [KEY=VALUE]",
            help="A run, checkpoint or Hugging Face directory, and the tasks; or a fine-tuning run to --resume.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run directory.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder that the tasks' data folders lie in; else beside each TASK.toml.", show_default=False
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="full (the default), gpt1, lora or probe.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train that many times, and tell mean and deviation.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run; start where there is none.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on labelled tasks.

    The run directory holds settings, tasks, checkpoints, figures and report.

    Example: firstlight finetune runs/mine examples/tasks/sst2.toml --data data/tasks --out runs/sst2
    """
    inputs, settings = split_words(words)
    start, tasks = (inputs[0] if inputs else None), inputs[1:]
    from firstlight.stages import finetune as stage

    if seeds > 1:
        if start is None or out is None:
            raise UsageError("several seeds need a folder for their runs", where="--seeds", fix="Add --out FOLDER.")
        summary = stage.finetune_seeds(
            seeds, start, tasks, out=out, overrides=settings, data=data, preset=preset, resume=resume
        )
        print_result(summary, as_json, lambda summary: _print_seeds(summary, out))
        return
    result = stage.finetune(start, tasks, out=out, data=data, preset=preset, resume=resume, overrides=settings)
    print_result(result, as_json, _print_finetuned)


def _print_finetuned(result: "FinetuneResult") -> None:
    how = f"stopped by {result.stopped_by}" if result.finished else f"interrupted by {result.stopped_by}, saved"
    print(f"{result.run}: {how} at step {result.step} after {result.seconds:,.1f} s")
    for side in ("valid", "test"):
        _print_metrics(side, getattr(result, side))
    if result.forgetting:
        before, after = result.forgetting["before"], result.forgetting["after"]
        print(f"loss on the pre-training text: {before:.4f} before, {after:.4f} after")
    if not result.finished:
        print(f"Go on with: firstlight finetune {shlex.quote(str(result.run))} --resume")
    if result.report is not None:
        print(f"report: {result.report}")


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A fine-tuned run, or a checkpoint of one.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows in the format of the task's own files.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes of the task, such as columns.text=1.", show_default=False),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Which task, of several.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSON lines; goes on where it was cut off.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Label the rows of a file.

    One line of JSON a row: where it stands, its label, and the probability of every label.

    Example: firstlight predict runs/sst2 reviews.tsv --out labels.jsonl
    """
    from firstlight.stages.predict import predict as stage

    count = 0
    with named_as_options({"hardware.device": "--device"}):
        for table in stage(run, file, task=task, out=out, device=device, settings=parse_overrides(words or [])):
            count += 1
            if out is None:
                print(json.dumps(table, ensure_ascii=False))
    if out is not None:
        print(f"{out}: {count:,} rows labelled")


def probe(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, a checkpoint or a Hugging Face directory.")],
    task: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TASK.toml|IMAGES]",
            help="A task of classification or of pairs; of a model of images, labelled images to score on, by default "
            "its run's valid split.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that the task's data folder lies in.", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(min=20, help="Images to fit on, and to score on, at most.")] = 10_000,
    pool: Annotated[str, typer.Option(help="mean: over all positions; last: of the last one.")] = "mean",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Tell what each layer knows of a task.

    Fits a linear classifier on the hidden states of every layer; the model itself stays as it is.

    Example: firstlight probe runs/mine examples/tasks/sst2.toml --data data/tasks
    """
    if pool not in ("mean", "last"):
        raise UsageError("unknown choice", where="--pool", found=pool, expected="mean or last")
    from firstlight.stages.probe import probe as stage

    with named_as_options({"hardware.device": "--device"}):
        found = stage(run, task, data=data, pool="mean" if pool == "mean" else "last", device=device, rows=rows)
    print_result(found, as_json, _print_probe)


def _print_probe(found: "ProbeResult") -> None:
    scores = [("embeddings" if s.layer == 0 else f"block {s.layer}", f"{s.accuracy:.4f}") for s in found.layers]
    print_table(("layer", "accuracy"), scores)
    if found.raw_pixels is not None:
        print(f"the same classifier on raw pixels: {found.raw_pixels:.4f}")
    print(f"the commonest class alone: {found.majority:.4f}")


def transfer(
    words: Annotated[
        list[str], typer.Argument(metavar="RUN A.toml B.toml [KEY=VALUE]", help="A model, two tasks, and settings.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs and of transfer.json.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder that the tasks' data folders lie in.", show_default=False)
    ] = None,
    preset: Annotated[str | None, typer.Option(help="As of finetune.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether one task helps another.

    Fine-tunes on each alone, after the other and with the other; goes on where it was cut off.

    Example: firstlight transfer runs/mine sst2.toml emotion.toml --out runs/sst2-emotion
    """
    inputs, settings = split_words(words)
    if not inputs:
        raise UsageError("names no model", where="transfer", expected="RUN A.toml B.toml")
    from firstlight.stages.transfer import transfer as stage

    result = stage(inputs[0], inputs[1:], out=out, overrides=settings, data=data, preset=preset)
    print_result(result, as_json, _print_transfer)


def _print_transfer(found: "TransferResult") -> None:
    rows = [(r.task, r.trained, r.metric, f"{r.value:.4f}", f"{r.low:.4f} to {r.high:.4f}") for r in found.rows]
    print_table(("task", "trained on", "metric", "value", "95 % interval"), rows)


def _print_metrics(side: str, tasks: dict[str, Any]) -> None:
    for name, f in tasks.items():
        if f["metric"] == "loss":
            print(f"{name}, {side}: loss {f['value']:.4f}")
            continue
        others = ", ".join(f"{k} {v:.4f}" for k, v in f["others"].items() if k != f["metric"])
        interval = f"95 % interval {f['low']:.4f} to {f['high']:.4f}"
        print(
            f"{name}, {side}: {f['metric']} {f['value']:.4f} ({interval}; n {f['n']:,}){'; ' if others else ''}{others}"
        )


def _print_seeds(summary: dict[str, Any], out: Path) -> None:
    for side in ("valid", "test"):
        for name, f in summary[side].items():
            values = ", ".join(f"{v:.4f}" for v in f["values"])
            print(f"{name}, {side}: {f['metric']} {f['mean']:.4f} ± {f['deviation']:.4f} ({values})")
    print(f"figures: {out / 'seeds.json'}")
