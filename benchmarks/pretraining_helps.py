"""Measure whether pre-training helps: fine-tune a small model, pre-trained or with random weights, on labelled tasks.

    python benchmarks/pretraining_helps.py examples/tasks/sst2.toml … --text novels.txt … --data DIR --out runs/helps

The model is pre-trained once, with the preset words-cpu and two layers, in bf16 and for at most --minutes, unless it
is in --out already. The control has the same architecture and tokenizer, and random weights. Both are fine-tuned with
every learning rate of RATES, and each is evaluated with the rate that is best for it on the validation rows. Results
are on the task's test rows, or its validation rows if it has none, with bootstrap intervals of 95 %; pre-training
"helps" if the intervals do not overlap. --rows limits the rows of a task's training split (plus a thousand for
validation, if the task has no split for it). Arguments after ``--`` are further settings of fine-tuning.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from firstlight.lm import LM
from firstlight.model import GPT

RATES = (3e-4, 1e-3, 3e-3)
VALID = 1000  # rows to hold out of the training split of a task without a validation split
PRETRAIN = [
    "model.n_layer=2",
    "hardware.precision=bf16",
    "train.batch_tokens=4096",
    "train.steps=6000",
    "train.eval_every=500",
    "train.checkpoint_every=1000",
]


def run(*arguments: str | Path) -> None:
    """Run a command of Firstlight."""
    command = [sys.executable, "-m", "firstlight", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def models(texts: list[Path], out: Path, minutes: float) -> dict[str, Path]:
    """Pre-train the model, and save the control with random weights."""
    pretrained, control = out / "pretrained", out / "random"
    limits = [*PRETRAIN, f"train.minutes={minutes}"]
    run("pretrain", *texts, "--preset", "words-cpu", "--out", pretrained, "--resume", *limits)
    if not control.is_dir():
        read = LM.load_fp32(pretrained)
        model = GPT(read.config)
        model.init_weights(torch.Generator().manual_seed(0))
        LM(model, read.tokenizer).save(control)
    return {"pretrained": pretrained, "random": control}


def limited(task: Path, rows: int, pool: str, out: Path) -> Path:
    """Write a task file with a pooling and a number of training rows; 0 is all of them."""
    text = task.read_text(encoding="utf-8")
    held_out = 0 if not rows or "\nvalid =" in text else VALID
    head = f'pool = "{pool}"\n' + (f"max_train_rows = {rows + held_out}\n" if rows else "")
    head += f"valid_ratio = {held_out / (rows + held_out)}\n" if held_out else ""
    out.mkdir(parents=True, exist_ok=True)
    (out / task.name).write_text(head + text, encoding="utf-8")
    return out / task.name


def evaluate(model: Path, task: Path, data: Path, out: Path, arguments: list[str]) -> dict[str, Any]:
    """Fine-tune with every rate; return the metrics of the best one on the validation rows."""
    best: dict[str, Any] = {}
    for rate in RATES:
        folder = out / f"{task.stem}-{model.name}-{rate:g}"
        settings = (f"optim.lr={rate}", "finetune.batch_size=32", *arguments)
        run("finetune", model, task, "--data", data, "--out", folder, "--resume", *settings)
        result = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        valid, test = result["tasks"][task.stem], result["test"].get(task.stem)
        if not best or valid["value"] > best["selection_value"]:
            best = {**(test or valid), "selection_value": valid["value"], "rate": rate}
    return best


def main() -> None:
    """Fine-tune both on every task, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="texts for pre-training")
    parser.add_argument("--data", type=Path, required=True, help="parent folder of the tasks' data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=19.0, help="limit of pre-training")
    parser.add_argument("--rows", type=int, default=0, help="limit of a task's training rows; no limit by default")
    parser.add_argument("--pool", choices=["mean", "last"], default="mean", help="pooling of the heads")
    ours, arguments = sys.argv[1:], []
    if "--" in ours:
        ours, arguments = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    args = parser.parse_args(ours)
    both = models(args.text, args.out, args.minutes)
    print("| task | metric | rows | random | pre-trained | gain | helps |\n|---|---|---|---|---|---|---|", flush=True)
    for task in (limited(task, args.rows, args.pool, args.out / "tasks") for task in args.tasks):
        result = {name: evaluate(model, task, args.data, args.out, arguments) for name, model in both.items()}
        random, pretrained = result["random"], result["pretrained"]
        cells = [f"{f['value']:.3f} ({f['low']:.3f}–{f['high']:.3f})" for f in (random, pretrained)]
        print(
            f"| {task.stem} | {pretrained['metric']} | {pretrained['n']:,} | {' | '.join(cells)} | "
            f"{pretrained['value'] - random['value']:+.3f} | {'yes' if pretrained['low'] > random['high'] else 'no'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
