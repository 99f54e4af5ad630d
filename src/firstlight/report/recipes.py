"""Commands to copy: reproduce a run, resume it, and use the model."""

import re
import shlex
from dataclasses import dataclass

from firstlight.report import non_text, summary
from firstlight.report.run_files import RunFiles, find


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
    more = f"firstlight pretrain {quoted} --resume train.steps={2 * step}" if step else ""
    sources = ", ".join(summary.sources(files)[:5])
    found = [
        Recipe(
            "Reproduce the run",
            f"firstlight pretrain {toml} --out {again}",
            "run.toml has every setting, resolved. With the same device, library versions and threads the weights are "
            "bit-identical. The corpus must be available" + (f": {sources}." if sources else "."),
        ),
        Recipe(
            "Resume training",
            f"firstlight pretrain {quoted} --resume" + (f"\n{more}" if more else ""),
            "From the latest checkpoint." + (" The second command also trains for longer." if more else ""),
        ),
        Recipe("Verify that resuming is bit-identical", f"firstlight verify-resume {toml}"),
        *_uses(files, quoted),
    ]
    if files.codec and files.checkpoint is not None:
        folder = repr(f"{run.rstrip('/')}/{files.checkpoint}")
        code = (
            f"from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained({folder})"
        )
        found.append(Recipe("Load with transformers", code, "The model takes ids; there is no tokenizer."))
    elif files.checkpoint is not None:
        found.append(
            Recipe(
                "Load with transformers",
                _TRANSFORMERS.format(folder=repr(f"{run.rstrip('/')}/{files.checkpoint}"), prompt=repr(prompt(files))),
                "A checkpoint is a Hugging Face model directory.",
            )
        )
    return found


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
