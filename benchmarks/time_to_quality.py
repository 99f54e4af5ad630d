"""Time to a validation loss: nanoGPT's CPU recipe on Shakespeare's characters and the preset shakespeare-char-cpu.

Both run as whole processes, interleaved, for several rounds:

    python benchmarks/time_to_quality.py --nanogpt ../nanoGPT --text input.txt --rounds 3

``--nanogpt`` is a checkout whose ``data/shakespeare_char/prepare.py`` has been run on the same text.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TARGET = 1.88
RECIPE = [
    "config/train_shakespeare_char.py",
    "--device=cpu",
    "--compile=False",
    "--eval_iters=20",
    "--log_interval=1",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--max_iters=2000",
    "--lr_decay_iters=2000",
    "--dropout=0.0",
]


def nanogpt(checkout: Path) -> dict[str, float]:
    """Run the recipe; return its seconds and its final validation loss."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "train.py", *RECIPE, f"--out_dir={out}"],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - began
    losses = re.findall(r"val loss ([0-9.]+)", done.stdout)
    return {"seconds": seconds, "valid_loss": float(losses[-1])}


def firstlight(text: Path, arguments: list[str]) -> dict[str, float]:
    """Run the preset; return its seconds, the seconds to the target, and the final validation loss."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "firstlight",
            "pretrain",
            str(text),
            "--preset",
            "shakespeare-char-cpu",
            "--out",
            str(out),
            *arguments,
        ]
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds = time.perf_counter() - began
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    scored = [line for line in lines if "valid_loss" in line]
    reached = next((line["seconds"] for line in scored if line["valid_loss"] <= TARGET), float("nan"))
    return {"seconds": seconds, "seconds_to_target": reached, "valid_loss": scored[-1]["valid_loss"]}


def main() -> None:
    """Run the rounds and print the results; --json writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout with its data prepared")
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare's input.txt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("arguments", nargs="*", help="key=value settings for Firstlight")
    args = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    for number in range(args.rounds):
        rounds.append({"nanogpt": nanogpt(args.nanogpt), "firstlight": firstlight(args.text, args.arguments)})
        theirs, ours = rounds[-1]["nanogpt"], rounds[-1]["firstlight"]
        print(
            f"round {number + 1}: nanoGPT {theirs['seconds']:.1f} s to {theirs['valid_loss']:.3f}; "
            f"Firstlight {TARGET} after {ours['seconds_to_target']:.1f} s, "
            f"{ours['seconds']:.1f} s to {ours['valid_loss']:.3f}; "
            f"ratio {theirs['seconds'] / ours['seconds_to_target']:.2f}",
            flush=True,
        )
    ratios = [r["nanogpt"]["seconds"] / r["firstlight"]["seconds_to_target"] for r in rounds]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"nanoGPT's total time relative to Firstlight's time to {TARGET}: median {spread}")
    if args.json is not None:
        args.json.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
