"""Does pre-training help? A small model, pre-trained or with random weights, fine-tuned alike on labelled tasks.

    python benchmarks/pretraining_helps.py examples/tasks/sst2.toml … --text novels.txt … --data DIR --out runs/helps

The model is pre-trained once, by the preset words-cpu with two layers, in bf16 and for --minutes at most, unless
--out holds it. Its twin has the same architecture and tokenizer, and random weights. Both are fine-tuned with every
learning rate of RATES, and each is judged with the rate that served it best on the valid rows, so that the rates favour
neither. The figures are on the task's test rows, on its valid rows where it has none, with bootstrap intervals of 95 %;
pre-training "helps" where these do not touch. With --rows only so many rows of a task's training split are taken, and
where it has no valid rows, a thousand more for those. Words behind ``--`` are further settings of fine-tuning.
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
VALID = 1000  # rows held out of a training split that has none of its own
PRETRAIN = [
    "model.n_layer=2",
    "hardware.precision=bf16",
    "train.batch_tokens=4096",
    "train.steps=6000",
    "train.eval_every=500",
    "train.checkpoint_every=1000",
]


def run(*words: str | Path) -> None:
    """Run a command of Firstlight."""
    command = [sys.executable, "-m", "firstlight", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def bodies(texts: list[Path], out: Path, minutes: float) -> dict[str, Path]:
    """Pre-train the model, and save its twin with random weights."""
    pretrained, twin = out / "pretrained", out / "random"
    limits = [*PRETRAIN, f"train.minutes={minutes}"]
    run("pretrain", *texts, "--preset", "words-cpu", "--out", pretrained, "--resume", *limits)
    if not twin.is_dir():
        read = LM.load_fp32(pretrained)
        model = GPT(read.config)
        model.init_weights(torch.Generator().manual_seed(0))
        LM(model, read.tokenizer).save(twin)
    return {"pretrained": pretrained, "random": twin}


def limited(task: Path, rows: int, pool: str, out: Path) -> Path:
    """Write a task whose head reads so, and that takes so many rows for training; 0 is all of them."""
    text = task.read_text(encoding="utf-8")
    held_out = 0 if not rows or "\nvalid =" in text else VALID
    head = f'pool = "{pool}"\n' + (f"max_train_rows = {rows + held_out}\n" if rows else "")
    head += f"valid_ratio = {held_out / (rows + held_out)}\n" if held_out else ""
    out.mkdir(parents=True, exist_ok=True)
    (out / task.name).write_text(head + text, encoding="utf-8")
    return out / task.name


def figures(body: Path, task: Path, data: Path, out: Path, words: list[str]) -> dict[str, Any]:
    """Fine-tune with every rate; return the figures of that which is best on the valid rows."""
    best: dict[str, Any] = {}
    for rate in RATES:
        folder = out / f"{task.stem}-{body.name}-{rate:g}"
        run("finetune", body, task, "--data", data, "--out", folder, "--resume", f"optim.lr={rate}", *words)
        told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        valid, test = told["tasks"][task.stem], told["test"].get(task.stem)
        if not best or valid["value"] > best["chosen_by"]:
            best = {**(test or valid), "chosen_by": valid["value"], "rate": rate}
    return best


def main() -> None:
    """Fine-tune both on every task, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="what the model is pre-trained on")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the tasks' data folders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=19.0, help="of pre-training, at most")
    parser.add_argument("--rows", type=int, default=0, help="of a task's training split; all of them by default")
    parser.add_argument("--pool", choices=["mean", "last"], default="mean", help="what the heads read")
    ours, words = sys.argv[1:], []
    if "--" in ours:
        ours, words = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    asked = parser.parse_args(ours)
    both = bodies(asked.text, asked.out, asked.minutes)
    print("| task | metric | rows | random | pre-trained | gain | helps |\n|---|---|---|---|---|---|---|", flush=True)
    for task in (limited(task, asked.rows, asked.pool, asked.out / "tasks") for task in asked.tasks):
        told = {name: figures(body, task, asked.data, asked.out, words) for name, body in both.items()}
        random, pretrained = told["random"], told["pretrained"]
        cells = [f"{f['value']:.3f} ({f['low']:.3f}–{f['high']:.3f})" for f in (random, pretrained)]
        print(
            f"| {task.stem} | {pretrained['metric']} | {pretrained['n']:,} | {' | '.join(cells)} | "
            f"{pretrained['value'] - random['value']:+.3f} | {'yes' if pretrained['low'] > random['high'] else 'no'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
