"""Commands to copy: reproduce a run, resume it, and use the model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.files.run_layout import SETTINGS, TENSORBOARD
from firstlight.files.text_lines import opening_word
from firstlight.finetuning import KINDS
from firstlight.lm import mean_example
from firstlight.report import non_text, summary
from firstlight.report.run_files import RunFiles, Table, find
from firstlight.report.units import to_float
from firstlight.runs import again_command, describe_changes
from firstlight.shell import command_in_folder, pip_command, quote_argument, requirements


@dataclass(frozen=True, slots=True)
class Recipe:
    """A heading, commands, and a note."""

    heading: str
    code: str
    note: str = ""


def recipes(files: RunFiles) -> list[Recipe]:
    """Return the recipes for a run: commands that are run in its folder, wherever it is."""
    step = summary.last_step(files)
    kind = "finetune" if files.tasks else "pretrain"
    limit = _longer(files, step or 0)
    resume = command_in_folder(kind, ".", "--resume")
    more = f"\n{command_in_folder(kind, '.', '--resume', limit)}" if limit else ""
    found = [
        Recipe("Reproduce the run", again_command(kind, files.run), _reproduction(files)),
        Recipe(
            "Resume training",
            resume + more,
            "From the latest checkpoint." + (" The second command also trains for longer." if more else ""),
        ),
        *(
            []
            if files.tasks
            else [Recipe("Verify that resuming is bit-identical", command_in_folder("verify-resume", SETTINGS))]
        ),
        *_predictions(files),
        *_uses(files),
        Recipe("Read the metrics in Python", _METRICS, _METRICS_NOTE),
    ]
    if files.codec and files.checkpoint is not None:
        code = _IDS.format(folder=repr(files.checkpoint))
        found.append(Recipe("Load with transformers", code, "The model takes ids; there is no tokenizer."))
    elif files.checkpoint is not None:
        is_classifier = "ForSequenceClassification" in str(find(files.config, "architectures"))
        template = _CLASSIFIER if is_classifier else _TRANSFORMERS
        code = template.format(folder=repr(files.checkpoint), prompt=repr(prompt(files)))
        if (head := _mean_head(files)) is not None:
            texts, has_classes = repr([prompt(files).strip()]), bool(find(head, "labels"))
            code = mean_example(str(find(head, "name")), repr(files.checkpoint), texts, has_classes)
        found.append(Recipe("Load with transformers", code, "A checkpoint is a Hugging Face model directory."))
    return found


def _mean_head(files: RunFiles) -> Table | None:
    """Return the only task of a run, if its head classifies or scores texts by the mean of their tokens."""
    if len(files.tasks) != 1 or find(files.tasks[0], "pool") != "mean":
        return None
    kind = KINDS.get(str(find(files.tasks[0], "kind")))
    return files.tasks[0] if kind is not None and kind.sequence_classification else None


def tensorboard(files: RunFiles) -> Recipe:
    """Return how the curves are seen in TensorBoard; where it was not installed, how it is installed."""
    if (files.run / TENSORBOARD).is_dir():
        return Recipe("In TensorBoard, in the folder of the run:", f"tensorboard --logdir {TENSORBOARD}")
    needed = requirements("tensorboard") or ["tensorboard"]
    return Recipe("For TensorBoard, install it before training:", pip_command("python", *needed))


def _longer(files: RunFiles, step: int) -> str | None:
    """Return the setting that doubles the limit which ended a run, or which will; None where none is known."""
    ended = find(files.state, "stopped_by") if find(files.state, "status") == "finished" else None
    if ended == "convergence":
        return None  # more steps would end it as soon
    for name in ("epochs", "tokens", "minutes"):
        value = to_float(find(files.settings, "train", name))
        if value and (ended == name or (ended is None and name == "epochs")):
            return f"train.{name}={2 * value:.12g}"
    return f"train.steps={2 * step}" if step else None


def _reproduction(files: RunFiles) -> str:
    """Say what the file of settings repeats, and what that needs."""
    needed = "model and the tasks' files must" if files.tasks else "corpus must"
    sources = ", ".join(summary.sources(files)[:5])
    available = f"The {needed} be available" + (f": {sources}." if sources else ".")
    if changes := describe_changes(files.contract):
        return (
            f"Settings were changed during the run ({changes}), so this does not repeat the run from the start: "
            f"it trains with the last settings from the first step. {available}"
        )
    return (
        "run.toml has every setting, resolved. With the same device, library versions and threads the weights are "
        f"bit-identical. {available}"
    )


def _predictions(files: RunFiles) -> list[Recipe]:
    """Return the recipe that labels rows, if a task has labels."""
    kinds = {str(find(task, "name")): KINDS.get(str(find(task, "kind"))) for task in files.tasks}
    labelled = [name for name, kind in kinds.items() if kind is None or kind.head is not None]
    if not labelled:
        return []
    task = ["--task", labelled[0]] if len(labelled) > 1 else []
    row = _example_row(next(task for task in files.tasks if str(find(task, "name")) == labelled[0]))
    if row is None:
        code = command_in_folder("predict", ".", "rows.tsv", *task, "--out", "labels.jsonl")
        return [Recipe("Label rows", code, "rows.tsv stands for a file in the format of the task's own files.")]
    write = f"echo {quote_argument(json.dumps(row, ensure_ascii=False))} > rows.jsonl"
    code = command_in_folder("predict", ".", "rows.jsonl", *task, "data.format=jsonl", "--out", "labels.jsonl")
    note = "The first command writes a row as an example. Files like the task's own need no data.format."
    return [Recipe("Label rows", f"{write}\n{code}", note)]


def _example_row(task: Table) -> dict[str, Any] | None:
    """Return a row with the columns that a task reads; None where they are not plain fields of a record."""
    if any(find(task, "data", name) for name in ("field", "explode", "max_fields")):
        return None
    row: dict[str, Any] = {}
    for role in ("text", "text2", "question", "choices", "choice_labels", "tokens", "messages"):
        names = find(task, "columns", role)
        for name in names if isinstance(names, list) else [names]:
            if name is None:
                continue
            if not isinstance(name, str) or "." in name or role not in ("text", "text2", "tokens"):
                return None
            row[name] = ["A", "good", "day"] if role == "tokens" else "A good day."
    return row or None


def _uses(files: RunFiles) -> list[Recipe]:
    unit = non_text.unit(files)
    evaluate = command_in_folder("evaluate", ".")
    if unit == "dim":
        draw = command_in_folder("generate", ".", "--out", "generated.png", "--overwrite")
        return [
            Recipe(
                "Generate images", draw, "Samples of each class; --image FILE completes the upper half of an image."
            ),
            Recipe("Fit a linear probe to each layer", command_in_folder("probe", ".")),
        ]
    if unit == "token":
        return [
            Recipe("Generate", command_in_folder("generate", ".", "--ids", "1 2 3")),
            Recipe("Evaluate", evaluate, "On the validation split; --text FILE evaluates on other ids."),
        ]
    text = prompt(files)
    words = ["--", ".", text] if text.startswith("-") else [".", text]  # not taken for an option
    return [
        Recipe("Generate text", command_in_folder("generate", *words), "Without a prompt: interactive, line by line."),
        *(
            []
            if files.tasks
            else [Recipe("Evaluate", evaluate, "On the validation split; --text FILE evaluates on another text.")]
        ),
    ]


_METRICS = """\
import firstlight

metrics = firstlight.metrics(".")
for name, (steps, values) in metrics.items():
    print(name, steps[-1], values[-1])"""
_METRICS_NOTE = (
    'plt.plot(*metrics["loss"]) draws a curve, metrics.to_pandas() is a DataFrame. Without Firstlight: '
    'pandas.read_json("metrics.jsonl", lines=True).plot("step", ["loss", "valid_loss"], marker=".")'
)

_IDS = """\
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({folder})"""

_CLASSIFIER = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = {folder}
model = AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
print(model(**tokenizer({prompt}, truncation=True, return_tensors="pt")).logits)"""

_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder}
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer({prompt}, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100, do_sample=True)[0]))"""


def prompt(files: RunFiles) -> str:
    """Return a prompt in the language of the run: its sample prompt, else the first word of its last sample.

    A run of labelled tasks has no samples; its texts with the worst errors are in the language.
    """
    setting = find(files.settings, "train", "sample_prompt")
    if isinstance(setting, str) and setting.strip() and len(setting) <= 60:
        return setting
    text = find(files.samples[-1], "text") if files.samples else _text_of_task(files)
    start = opening_word(text) if isinstance(text, str) else None
    if start is None:
        return "The "
    return f"{start} " if start.isascii() else start


def _text_of_task(files: RunFiles) -> object:
    """Return the text of a labelled row that evaluation.json has, or None."""
    tasks = find(files.evaluation, "tasks")
    for result in tasks.values() if isinstance(tasks, Mapping) else ():
        worst = find(result, "worst")
        if isinstance(worst, list) and worst:
            return find(worst[0], "text")
    return None
