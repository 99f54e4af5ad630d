"""How to repeat a run, go on with it, and use what came out of it: commands to copy."""

import re
import shlex
from dataclasses import dataclass

from firstlight.report import non_text, summary
from firstlight.report.run_files import RunFiles, find


@dataclass(frozen=True, slots=True)
class Recipe:
    """Commands, what they do, and what to know before."""

    heading: str
    code: str
    note: str = ""


def recipes(files: RunFiles) -> list[Recipe]:
    """Return the recipes for a run, with its own paths in them."""
    run = str(files.run)
    quoted, again = shlex.quote(run), shlex.quote(f"{run.rstrip('/')}-again")
    toml = shlex.quote(f"{run.rstrip('/')}/run.toml")
    step = summary.last_step(files)
    more = f"firstlight pretrain {quoted} --resume train.steps={2 * step}" if step else ""
    named = ", ".join(summary.sources(files)[:5])
    found = [
        Recipe(
            "The same run again",
            f"firstlight pretrain {toml} --out {again}",
            "run.toml holds every setting, resolved. On the same device, versions and threads the weights come out "
            "the same, bit for bit; the corpus must be there" + (f": {named}." if named else "."),
        ),
        Recipe(
            "Go on with it",
            f"firstlight pretrain {quoted} --resume" + (f"\n{more}" if more else ""),
            "From its newest checkpoint." + (" The second line also moves the end." if more else ""),
        ),
        Recipe("Prove that stop and resume changes nothing", f"firstlight verify-resume {toml}"),
        *_uses(files, quoted),
    ]
    if files.codec and files.checkpoint is not None:
        folder = repr(f"{run.rstrip('/')}/{files.checkpoint}")
        code = (
            f"from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained({folder})"
        )
        found.append(Recipe("Load it in transformers, without Firstlight", code, "It has ids, and no tokenizer."))
    elif files.checkpoint is not None:
        found.append(
            Recipe(
                "Load it in transformers, without Firstlight",
                _TRANSFORMERS.format(folder=repr(f"{run.rstrip('/')}/{files.checkpoint}"), prompt=repr(prompt(files))),
                "A checkpoint is an ordinary Hugging Face directory.",
            )
        )
    return found


def _uses(files: RunFiles, run: str) -> list[Recipe]:
    unit = non_text.unit(files)
    if unit == "dim":
        draw = f"firstlight generate {run} --image half.png --out grid.png\nfirstlight generate {run} --out drawn.png"
        return [
            Recipe("Let it draw", draw, "From the upper half of an image; or of each class."),
            Recipe("Ask what its layers know of the classes", f"firstlight probe {run}"),
        ]
    if unit == "token":
        return [
            Recipe("Let it write", f'firstlight generate {run} --ids "1 2 3"'),
            Recipe("Measure it on other ids", f"firstlight evaluate {run} --text other.npy"),
        ]
    return [
        Recipe(
            "Let it write",
            f"firstlight generate {run} {shlex.quote(prompt(files))}",
            "Without a prompt: a conversation, line by line.",
        ),
        Recipe("Measure it on another text", f"firstlight evaluate {run} --text other.txt"),
    ]


_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder}
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer({prompt}, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100, do_sample=True)[0]))"""


def prompt(files: RunFiles) -> str:
    """Return a beginning in the language of the run: its own prompt, else the first word of its last sample."""
    asked = find(files.settings, "train", "sample_prompt")
    if isinstance(asked, str) and asked.strip() and len(asked) <= 60:
        return asked
    text = find(files.samples[-1], "text") if files.samples else None
    word = re.search(r"[^\W\d_]{2,}", text) if isinstance(text, str) else None
    if word is None:
        return "The "
    start = word[0][:12] if word[0].isascii() else word[0][:4]
    return f"{start} " if start.isascii() else start
