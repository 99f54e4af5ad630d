"""Commands to copy: reproduce a run, resume it, and use the model."""

import re
import shlex
from dataclasses import dataclass

from firstlight.finetuning import KINDS
from firstlight.report import non_text, summary
from firstlight.report.run_files import RunFiles, find
from firstlight.report.units import to_float


@dataclass(frozen=True, slots=True)
class Recipe:
    """A heading, commands, and a note."""

    heading: str
    code: str
    note: str = ""


def recipes(files: RunFiles) -> list[Recipe]:
    """Return the recipes for a run, with its own paths."""
    run = str(files.run)
    quoted, again = shlex.quote(run), shlex.quote(f"{run.rstrip('/')}-again")
    toml = shlex.quote(f"{run.rstrip('/')}/run.toml")
    step = summary.last_step(files)
    command = "finetune" if files.tasks else "pretrain"
    epochs = to_float(find(files.settings, "train", "epochs"))
    limit = f"epochs={2 * epochs:g}" if epochs else f"steps={2 * (step or 0)}"
    more = f"firstlight {command} {quoted} --resume train.{limit}" if step else ""
    sources = ", ".join(summary.sources(files)[:5])
    needed = "model and the tasks' files must" if files.tasks else "corpus must"
    found = [
        Recipe(
            "Reproduce the run",
            f"firstlight {command} {toml} --out {again}",
            "run.toml has every setting, resolved. With the same device, library versions and threads the weights are "
            f"bit-identical. The {needed} be available" + (f": {sources}." if sources else "."),
        ),
        Recipe(
            "Resume training",
            f"firstlight {command} {quoted} --resume" + (f"\n{more}" if more else ""),
            "From the latest checkpoint." + (" The second command also trains for longer." if more else ""),
        ),
        *([] if files.tasks else [Recipe("Verify that resuming is bit-identical", f"firstlight verify-resume {toml}")]),
        *_predictions(files, quoted),
        *_uses(files, quoted),
    ]
    if files.codec and files.checkpoint is not None:
        folder = repr(f"{run.rstrip('/')}/{files.checkpoint}")
        code = (
            f"from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained({folder})"
        )
        found.append(Recipe("Load with transformers", code, "The model takes ids; there is no tokenizer."))
    elif files.checkpoint is not None:
        is_classifier = "ForSequenceClassification" in str(find(files.config, "architectures"))
        template = _CLASSIFIER if is_classifier else _TRANSFORMERS
        code = template.format(folder=repr(f"{run.rstrip('/')}/{files.checkpoint}"), prompt=repr(prompt(files)))
        found.append(Recipe("Load with transformers", code, "A checkpoint is a Hugging Face model directory."))
    return found


def _predictions(files: RunFiles, run: str) -> list[Recipe]:
    """Return the recipe that labels rows, if a task has labels."""
    kinds = {str(find(task, "name")): KINDS.get(str(find(task, "kind"))) for task in files.tasks}
    labelled = [name for name, kind in kinds.items() if kind is None or kind.head is not None]
    if not labelled:
        return []
    task = f" --task {shlex.quote(labelled[0])}" if len(labelled) > 1 else ""
    code = f"firstlight predict {run} rows.tsv{task} --out labels.jsonl"
    return [Recipe("Label rows", code, "rows.tsv stands for a file in the format of the task's own files.")]


def _uses(files: RunFiles, run: str) -> list[Recipe]:
    unit = non_text.unit(files)
    if unit == "dim":
        draw = f"firstlight generate {run} --image half.png --out grid.png\nfirstlight generate {run} --out drawn.png"
        return [
            Recipe("Generate images", draw, "Complete the upper half of an image; or samples of each class."),
            Recipe("Fit a linear probe to each layer", f"firstlight probe {run}"),
        ]
    if unit == "token":
        return [
            Recipe("Generate", f'firstlight generate {run} --ids "1 2 3"'),
            Recipe("Evaluate on other ids", f"firstlight evaluate {run} --text other.npy"),
        ]
    return [
        Recipe(
            "Generate text",
            f"firstlight generate {run} {shlex.quote(prompt(files))}",
            "Without a prompt: interactive, line by line.",
        ),
        Recipe("Evaluate on another text", f"firstlight evaluate {run} --text other.txt"),
    ]


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
    """Return a prompt in the language of the run: its sample prompt, else the first word of its last sample."""
    setting = find(files.settings, "train", "sample_prompt")
    if isinstance(setting, str) and setting.strip() and len(setting) <= 60:
        return setting
    text = find(files.samples[-1], "text") if files.samples else None
    word = re.search(r"[^\W\d_]{2,}", text) if isinstance(text, str) else None
    if word is None:
        return "The "
    start = word[0][:12] if word[0].isascii() else word[0][:4]
    return f"{start} " if start.isascii() else start
