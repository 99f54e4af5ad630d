"""The commands finetune, predict, probe and transfer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight import progress
from firstlight.cli.arguments import (
    OverwriteOption,
    RestartOption,
    check_resume,
    map_errors_to_options,
    split_arguments,
)
from firstlight.cli.output import (
    JsonOption,
    format_stop_reason,
    print_evaluations,
    print_report,
    print_result,
    print_run_result,
    print_table,
)
from firstlight.config import parse_overrides
from firstlight.errors import UsageError
from firstlight.files import is_stream
from firstlight.shell import resume_command

if TYPE_CHECKING:
    from firstlight.finetuning.probe import ProbeResult
    from firstlight.stages.finetune import FinetuneResult
    from firstlight.stages.finetune_search import SearchResult, Trial
    from firstlight.stages.transfer import TransferResult


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(finetune)
    app.command()(predict)
    app.command()(probe)
    app.command()(transfer)


def finetune(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN TASK… [KEY=VALUE]",
            help="A run, checkpoint or Hugging Face directory, and the tasks: files, or names of packaged ones "
            "(scenes, zh_scenes); or a fine-tuning run to --resume, or its run.toml to start the same run again.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run directory.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder that contains the tasks' data folders; by default that of each TASK.toml.", show_default=False
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="full (the default), gpt1, lora, qlora or probe.", show_default=False)
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds to train with; prints mean and standard deviation.")
    ] = 1,
    search: Annotated[
        int,
        typer.Option(
            min=1,
            help="Limit of trials: the default settings, then other learning rates and numbers of epochs. The "
            "validation rows choose one.",
        ),
    ] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run; start it if there is none.")] = False,
    restart: RestartOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on labelled tasks.

    The run directory contains settings, tasks, checkpoints, metrics and a report.

    Example: firstlight finetune runs/quickstart scenes --out runs/scenes
    """
    inputs, settings = split_arguments(arguments)
    start, tasks = (inputs[0] if inputs else None), inputs[1:]
    check_resume(resume, restart)
    with progress.task("load PyTorch"):
        from firstlight.stages import finetune as stage
        from firstlight.stages.finetune_search import finetune_search
        from firstlight.stages.finetune_seeds import finetune_seeds

    if seeds > 1 or search > 1:
        option = "--seeds" if seeds > 1 else "--search"
        if seeds > 1 and search > 1:
            raise UsageError("cannot be combined", where="--seeds and --search", fix="Leave one of them out.")
        if start is None:
            raise UsageError("no model is given", where=option, expected="RUN TASK…", fix="Name a model, and tasks.")
        if out is None:
            raise UsageError("several runs need a folder", where=option, fix="Add --out FOLDER.")
        options: dict[str, Any] = {"out": out, "overrides": settings, "data": data, "preset": preset, "resume": resume}
        if seeds > 1:
            summary = finetune_seeds(seeds, start, tasks, restart=restart, **options)
            print_result(summary, as_json, lambda summary: _print_seeds(summary, out))
        else:
            print_result(finetune_search(search, start, tasks, restart=restart, **options), as_json, _print_search)
        return
    result = stage.finetune(
        start, tasks, out=out, data=data, preset=preset, resume=resume, restart=restart, overrides=settings
    )
    print_run_result(result, as_json, _print_finetuned)


def _print_finetuned(result: "FinetuneResult") -> None:
    how = "finished" if result.finished else f"{result.how_it_ended}, checkpoint saved"
    print(
        f"{result.run}: {how} at step {result.step} ({format_stop_reason(result.stopped_by)}; {result.seconds:,.1f} s)"
    )
    is_labelled = result.best is None or "loss" not in list(result.best)[:2]  # text and chats have no other metric
    print_evaluations(result, "predict and generate use" if is_labelled else "generate uses")
    for side in ("valid", "test"):
        _print_metrics(side, getattr(result, side))
    _warn(result.warnings)
    if result.forgetting:
        before, after = result.forgetting["before"], result.forgetting["after"]
        print(f"loss on the pre-training text (a part of its validation split): {before:.4f} before, {after:.4f} after")
    if not result.finished:
        print(f"Resume with: {resume_command('finetune', result.run)}")
    print_report(result)


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A fine-tuned run, or a checkpoint of one.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows in the format of the task's own files.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Task settings to override, such as columns.text=1.", show_default=False
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Name of the task, where the run has several.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A file of JSON lines; one that an interrupted command has left is continued.",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Predict the labels of the rows of a file.

    Prints one line of JSON per row: its file and line, its label, and the probability of every label.

    Example: firstlight predict runs/sst2 reviews.tsv --out labels.jsonl
    """
    with progress.task("load PyTorch"):
        from firstlight.stages.predict import predict as stage

    count = 0
    with map_errors_to_options({"hardware.device": "--device"}):
        inputs, settings = split_arguments(arguments)
        changes = parse_overrides([*inputs, *settings])
        for result in stage(run, file, task=task, out=out, device=device, settings=changes, overwrite=overwrite):
            count += 1
            if out is None:
                print(json.dumps(result.to_json(), ensure_ascii=False))
    if out is not None and not is_stream(out):
        print(f"{out}: {count:,} rows predicted")


def probe(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, a checkpoint (RUN@STEP) or a Hugging Face directory.")
    ],
    task: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TASK.toml|IMAGES]",
            help="A task of classification or pairs; for a model of images, labelled images to evaluate on, by default "
            "its run's validation split.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]",
            help="Settings of the tables corpus and image: how images are read.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that contains the task's data folder.", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(min=20, help="Limit of images to fit on, and to evaluate on.")] = 10_000,
    pool: Annotated[str, typer.Option(help="mean: over all positions; last: the last one.")] = "mean",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Fit a linear probe to each layer.

    The probe is a linear classifier on the layer's hidden states; the model itself is not trained.

    Example: firstlight probe runs/mine examples/tasks/sst2.toml --data data/tasks
    """
    if pool not in ("mean", "last"):
        raise UsageError("unknown choice", where="--pool", found=pool, expected="mean or last")
    with progress.task("load PyTorch"):
        from firstlight.stages.probe import probe as stage

    with map_errors_to_options({"hardware.device": "--device"}):
        found = stage(
            run,
            task,
            data=data,
            pool="mean" if pool == "mean" else "last",
            device=device,
            rows=rows,
            overrides=settings or (),
        )
    print_result(found, as_json, _print_probe)


def _print_probe(found: "ProbeResult") -> None:
    scores = [("embeddings" if s.layer == 0 else f"block {s.layer}", f"{s.accuracy:.4f}") for s in found.layers]
    print_table(("layer", "accuracy"), scores)
    if found.raw_pixels is not None:
        print(f"the same classifier on raw pixels: {found.raw_pixels:.4f}")
    print(f"always the most frequent class: {found.majority:.4f}")


def transfer(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RUN A.toml B.toml [KEY=VALUE]", help="A model, two tasks, and settings.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs and of transfer.json.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder that contains the tasks' data folders.", show_default=False)
    ] = None,
    preset: Annotated[str | None, typer.Option(help="As for finetune.", show_default=False)] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the transfer between two tasks.

    Fine-tunes on each task alone, after the other and together with it. An interrupted command can be run again.

    Example: firstlight transfer runs/mine sst2.toml emotion.toml --out runs/sst2-emotion
    """
    inputs, settings = split_arguments(arguments)
    if not inputs:
        raise UsageError("no model is given", where="transfer", expected="RUN A.toml B.toml")
    with progress.task("load PyTorch"):
        from firstlight.stages.transfer import transfer as stage

    result = stage(inputs[0], inputs[1:], out=out, overrides=settings, data=data, preset=preset, overwrite=overwrite)
    print_result(result, as_json, _print_transfer)


def _print_transfer(found: "TransferResult") -> None:
    rows = [(r.task, r.trained_on, r.metric, f"{r.value:.4f}", f"{r.low:.4f} to {r.high:.4f}") for r in found.rows]
    print_table(("task", "trained on", "metric", "validation rows", "95 % interval"), rows)


def _print_metrics(side: str, tasks: dict[str, Any]) -> None:
    for name, m in tasks.items():
        if m["metric"] == "loss":
            print(f"{name}, {side}: loss {m['value']:.4f}")
            continue
        others = ", ".join(f"{k} {v:.4f}" for k, v in m["others"].items() if k != m["metric"])
        interval = f"95 % interval {m['low']:.4f} to {m['high']:.4f}"
        n = f"n {m['n']:,}" + (f"; majority class {m['majority']['value']:.4f}" if m["majority"] else "")
        # A run that an earlier version finished has none.
        n += f"; bag of words {words['value']:.4f}" if (words := m.get("bag_of_words")) else ""
        print(f"{name}, {side}: {m['metric']} {m['value']:.4f} ({interval}; {n}){'; ' if others else ''}{others}")


def _search_score(trial: "Trial", metric: str) -> str:
    if trial.valid is None:
        return "failed"
    return f"{-trial.valid if metric == 'loss' else trial.valid:.4f}"


def _print_search(found: "SearchResult") -> None:
    rows = [
        (trial.run, f"{trial.lr:.3g}", f"{trial.epochs:g}", _search_score(trial, found.metric), f"{trial.seconds:.0f}")
        for trial in found.trials
    ]
    print_table(("run", "learning rate", "epochs", f"valid {found.metric}", "seconds"), rows)
    for side in ("valid", "test"):
        _print_metrics(side, getattr(found, side))
    _warn(found.warnings)
    more = "" if found.complete else "; not every neighbour of it was tried, so a larger --search may find a better one"
    print(f"best: {found.best.run}, chosen by the validation rows, on which its score is a little too good{more}")


def _print_seeds(summary: dict[str, Any], out: Path) -> None:
    for side in ("valid", "test"):
        for name, m in summary[side].items():
            values = ", ".join(f"{v:.4f}" for v in m["values"])
            print(f"{name}, {side}: {m['metric']} {m['mean']:.4f} ± {m['deviation']:.4f} ({values})")
    for run, warnings in summary["warnings"].items():
        _warn(warnings, f"{run}: ")
    print(f"metrics: {out / 'seeds.json'}")


def _warn(warnings: Mapping[str, list[str]], run: str = "") -> None:
    """Print what should be known about the metrics of each task."""
    for name, texts in warnings.items():
        for text in texts:
            progress.warn(f"{run}{name}: {text}")
