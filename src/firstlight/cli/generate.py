"""The command ``generate``: text from prompts, interactively or in batch; ids; images."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight import progress
from firstlight.cli.arguments import OverwriteOption, map_errors_to_options, read_stdin
from firstlight.cli.output import JsonOption, print_result
from firstlight.errors import UsageError
from firstlight.files import check_output, is_stream
from firstlight.shell import command_line, model_argument

if TYPE_CHECKING:
    from firstlight.lm import LM
    from firstlight.stages.images import ImageGrid

_STDIN = "-"


ImageOption = Annotated[
    str | None,
    typer.Option(
        help="Models of images: picture to complete, whole or its upper part; or an array or folder of images.",
        show_default=False,
    ),
]
KeepOption = Annotated[
    float | None,
    typer.Option(
        help="Models of images: fraction of the rows of --image that is given; 0.5 by default.", show_default=False
    ),
]
RowsOption = Annotated[
    int | None,
    typer.Option(help="Models of images: number of rows of --image that are given.", show_default=False),
]
GridOption = Annotated[
    bool,
    typer.Option(
        "--grid", help="Models of images: several completions of --image in one picture; 8 samples by default."
    ),
]
ClassNameOption = Annotated[
    str | None, typer.Option("--class", help="Models of images: class to generate.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="Models of images: PNG file to write; by default completed.png, or grid.png for several images.",
        show_default=False,
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        help="Sample from the most likely tokens whose probabilities add up to p (nucleus sampling).",
        show_default=False,
    ),
]
MinPOption = Annotated[
    float | None,
    typer.Option(
        help="Drop tokens less likely than this fraction of the most likely token's probability.",
        show_default=False,
    ),
]

PromptLookupOption = Annotated[
    int | None,
    typer.Option(
        help="Check up to this many tokens at once, taken from an earlier occurrence of the last ones: the same "
        "text, sooner where it repeats itself.",
        show_default=False,
    ),
]
PrecisionOption = Annotated[
    str, typer.Option(help="auto, fp32, bf16 or fp16; bf16 on a CPU: weights in 16 bits, which are read faster.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(generate)


def generate(  # noqa: PLR0913 - an argument an option
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, a checkpoint (RUN@STEP) or a Hugging Face directory.")
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="Text to continue; - reads prompts from standard input.", show_default=False
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="File with one prompt per line; - for standard input.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of tokens to generate.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0: greedy decoding.", show_default=False)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k most likely tokens.", show_default=False)] = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed; the same seed gives the same text.", show_default=False)
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="Number of samples per prompt.", show_default=False)] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop at this string; may be repeated.", show_default=False)
    ] = None,
    prompt_lookup_num_tokens: PromptLookupOption = None,
    ids: Annotated[
        str | None,
        typer.Option(help='Models of ids: the ids to continue, such as "1 2 3".', show_default=False),
    ] = None,
    image: ImageOption = None,
    keep: KeepOption = None,
    rows: RowsOption = None,
    grid: GridOption = False,
    class_name: ClassNameOption = None,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: PrecisionOption = "auto",
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize the weight matrices to 8 bits: faster, almost the same text.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Generate text from a prompt.

    Without PROMPT: interactive in a terminal, otherwise one prompt per line from standard input. A model of ids
    generates ids; a model of images writes PNG files: --image completed, or a grid of samples of each class.

    Bytes that are not UTF-8 are shown as U+FFFD; those of a character that is incomplete at the end are left out. Which
    checkpoint of a run is used is said on standard error.

    Example: firstlight generate runs/quickstart "The " --max-new-tokens 200 --temperature 0.8 --top-k 50
    """
    with progress.task("load PyTorch"):
        from firstlight.stages import generate as stage

    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "num_samples": num_samples,
        "stop": stop or None,
        "prompt_lookup_num_tokens": prompt_lookup_num_tokens,
    }
    with map_errors_to_options({key: f"--{key.replace('_', '-')}" for key in settings}):
        stage.resolve_settings(settings)  # reports invalid settings before a model is loaded
    if prompt is not None and prompts is not None:
        raise UsageError("PROMPT and --prompts cannot be combined", fix="Remove one of them.")
    if out is not None:
        check_output(out, overwrite=overwrite)  # before a model is loaded
    texts = None if prompt is None else [prompt]
    if prompt == _STDIN or prompts == Path(_STDIN):
        texts = _read_prompts(run)
    elif prompts is not None:
        texts = stage.read_prompts(prompts)
    with map_errors_to_options({"hardware.device": "--device", "hardware.precision": "--precision"}):
        model = stage.load(run, device=device, precision=precision, int8=int8)
    image_options = {
        **{"image": image, "keep": keep, "rows": rows, "class_name": class_name},
        **{"grid": grid, "out": out, "overwrite": overwrite},
    }
    if model.codec is None:
        _refuse_image_options(run, image if ids is None else ids, image_options)
        _generate_text(run, model, texts, settings, as_json)
        return
    if texts is not None:
        raise UsageError("is not a text model", where=run, fix="Use --ids or --image instead of a prompt.")
    _generate_non_text(model, ids, image_options, settings, as_json)


def _refuse_image_options(run: object, start: str | None, image_options: dict[str, Any]) -> None:
    """Refuse what a model of text does not have: ids or an image to start from, and the options of images."""
    if start is not None:
        fix = "Use a prompt instead of --ids or --image."
        raise UsageError("is a text model", where=run, expected="a model of ids or images", fix=fix)
    names = {"out": "--out", "keep": "--keep", "rows": "--rows", "class_name": "--class", "grid": "--grid"}
    for option in (option for name, option in names.items() if image_options[name] not in (None, False)):
        fix = "Redirect the output instead: > FILE" if option == "--out" else "Leave it out."
        raise UsageError("is not a model of images", where=run, found=option, fix=fix)


def _generate_text(run: str, model: "LM", prompts: list[str] | None, settings: dict[str, Any], as_json: bool) -> None:
    """Continue prompts, those of standard input by default; in a terminal, interactively."""
    with progress.task("load PyTorch"):
        from firstlight.stages import generate as stage
    from firstlight.stages.used_checkpoint import report_checkpoint

    if prompts is None and sys.stdin.isatty() and not as_json:
        report_checkpoint(model)
        _converse(model, settings)
        return
    prompts = _read_prompts(run) if prompts is None else prompts
    report_checkpoint(model)
    if len(prompts) == 1 and (settings["num_samples"] or 1) == 1 and not as_json:
        _print_stream(prompts[0], stage.stream(model, prompts[0], **settings))
    else:
        print_result({"samples": stage.generate(model, prompts, **settings)}, as_json, _print_samples)


def _generate_non_text(
    model: "LM", ids: str | None, image_options: dict[str, Any], settings: dict[str, Any], as_json: bool
) -> None:
    """Generate ids, or images."""
    from firstlight.stages.used_checkpoint import report_checkpoint
    from firstlight.tokenizer import PixelCodec

    if not isinstance(model.codec, PixelCodec):
        from firstlight.stages.generate import generate_ids

        _refuse_image_options(model.source, None, image_options)
        if image_options["image"] is not None:
            raise UsageError(
                "is a model of ids",
                where=model.source,
                expected="a model of images",
                fix="Use --ids instead of --image.",
            )
        _refuse_text_options(settings, "ids", ("stop",))
        report_checkpoint(model)
        samples = generate_ids(model, ids or (), **settings)
        print_result({"samples": samples}, as_json, _print_id_samples)
        return
    if ids is not None:
        raise UsageError(
            "is a model of images", where=model.source, expected="a model of ids", fix="Use --image instead of --ids."
        )
    from firstlight.stages import images

    _refuse_text_options(settings, "images", ("stop", "max_new_tokens"))
    report_checkpoint(model)
    image, grid = image_options["image"], image_options["grid"]
    layout = "" if image is None else "; each row: the given part, the completions, the original" if grid else None
    image_options["out"] = image_options["out"] or Path("completed.png" if layout is None else "grid.png")
    if image is None:
        for name in ("keep", "rows"):
            if image_options.pop(name) is not None:
                fix = "Name it with --image."
                raise UsageError("applies to an image that is completed", where=f"--{name}", fix=fix)
        del image_options["image"], image_options["grid"]  # samples are one
        drawn = images.sample_images(model, **image_options, **settings)
    else:
        drawn = images.complete_images(model, **image_options, **settings)
    if not is_stream(drawn.out):  # a line would be among the bytes of the image
        print_result(drawn, as_json, lambda drawn: _print_images(drawn, layout))


def _refuse_text_options(settings: dict[str, Any], kind: str, names: tuple[str, ...]) -> None:
    for name in names:
        if settings[name] is not None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"has no effect on a model of {kind}", where=option, fix="Leave it out.")


def _print_images(drawn: "ImageGrid", layout: str | None) -> None:
    """Print the files that were written; ``layout`` describes the rows of a grid, and is None for pictures."""
    if layout is not None:
        print(f"{drawn.out}: {drawn.images} images{layout}")
        return
    for file in drawn.files:
        print(file)


def _print_samples(result: dict[str, Any]) -> None:
    for number, sample in enumerate(result["samples"]):
        print(f"{'' if number == 0 else '---' + chr(10)}{sample.prompt}{sample.text}")


def _print_id_samples(result: dict[str, Any]) -> None:
    for sample in result["samples"]:
        print(*sample.prompt, *sample.ids)


def _print_stream(prompt: str, pieces: Iterator[str]) -> None:
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def _converse(model: "LM", settings: dict[str, Any]) -> None:
    """Continue each line that is typed, until end of input; Ctrl-C stops the current generation."""
    from firstlight.stages.generate import Conversation

    with contextlib.suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401 - input() edits with it: the terminal alone halves letters of two columns

    conversation = Conversation(model, **settings)
    print("Type a prompt; earlier text is the context. Ctrl-C stops a generation, Ctrl-D exits.", file=sys.stderr)
    while True:
        try:
            line = input("> ")
        except EOFError:
            print(file=sys.stderr)
            return
        try:
            for piece in conversation.reply(line):
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(" …", end="", file=sys.stderr)
        print(flush=True)


def _read_prompts(run: str) -> list[str]:
    from firstlight.stages.generate import split_prompts

    lines = split_prompts(read_stdin())
    if not lines:
        command = command_line("generate", model_argument(run), "The ")
        raise UsageError("no prompt", fix=f"Pipe prompts to standard input, or give one: {command}")
    return lines
